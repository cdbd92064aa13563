// One request through a proxy, the way that argv says: KIND PROXY-URL URL CA-FILE. Prints {status, body} or {error} as JSON.
import { readFileSync } from "node:fs"
import http from "node:http"
import https from "node:https"
import { fetch, ProxyAgent, WebSocket } from "undici"

const [kind, proxyUrl, url, caFile] = process.argv.slice(2)
const ca = readFileSync(caFile)
const proxy = new URL(proxyUrl)
const credentials = [proxy.username, proxy.password].map(decodeURIComponent).join(":")
const authorization = `Basic ${Buffer.from(credentials).toString("base64")}`
const front = { host: proxy.hostname, port: proxy.port, agent: false }

const agent = () =>
    new ProxyAgent({ uri: `http://${proxy.host}`, token: authorization, requestTls: { ca } })

const read = async (response) => {
    let body = ""
    for await (const chunk of response) body += chunk
    return { status: response.statusCode, body }
}

const answerTo = (request) =>
    new Promise((done, failed) => request.on("response", (r) => done(read(r))).on("error", failed).end())

const kinds = {
    undici: async () => {
        const response = await fetch(url, { dispatcher: agent() })
        return { status: response.status, body: await response.text() }
    },
    websocket: () =>
        new Promise((done, failed) => {
            const socket = new WebSocket(url, { dispatcher: agent() })
            socket.onmessage = (message) => { done({ status: 101, body: message.data }); socket.close() }
            socket.onerror = (event) => failed(event.error ?? new Error("refused"))
        }),
    http: () => {
        const headers = { Host: new URL(url).host, "Proxy-Authorization": authorization }
        return answerTo(http.request({ ...front, path: url, headers }))
    },
    connect: () =>
        new Promise((done, failed) => {
            const target = new URL(url)
            const path = `${target.hostname}:${target.port || 443}`
            const request = http.request({ ...front, method: "CONNECT", path, headers: { "Proxy-Authorization": authorization } })
            request.on("connect", (response, socket) => {
                if (response.statusCode === 200) return done(answerTo(https.request(url, { socket, ca, agent: false })))
                socket.destroy()
                done({ status: response.statusCode, body: "" })
            })
            request.on("error", failed).end()
        }),
}

try {
    console.log(JSON.stringify(await kinds[kind]()))
} catch (error) {
    const said = []
    for (let cause = error; cause; cause = cause.cause) said.push(cause.message)
    console.log(JSON.stringify({ error: said.join(": ") }))
}
process.exit(0)
