// One request through a proxy. Args: "http" URL CA-FILE USER PASSWORD PROXY-HOST PROXY-PORT for java.net.http.HttpClient,
// "url" URL CA-FILE [USER PASSWORD] for URLConnection, with the proxy that -DsocksProxyHost or -Dhttp.proxyHost name.
// Prints the status and the body, or the exception.
import java.io.InputStream;
import java.net.Authenticator;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.PasswordAuthentication;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Client {
    public static void main(String[] args) {
        try {
            SSLContext tls = trusting(Path.of(args[2]));
            System.out.print(args[0].equals("http") ? byHttpClient(args, tls) : byUrlConnection(args, tls));
        } catch (Exception error) {
            System.out.print(error);
        }
    }

    static SSLContext trusting(Path authority) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        try (InputStream pem = Files.newInputStream(authority)) {
            store.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }

    static Authenticator always(String user, String password) {
        return new Authenticator() {
            @Override
            protected PasswordAuthentication getPasswordAuthentication() {
                return new PasswordAuthentication(user, password.toCharArray());
            }
        };
    }

    static String byHttpClient(String[] args, SSLContext tls) throws Exception {
        HttpClient client = HttpClient.newBuilder()
            .proxy(ProxySelector.of(new InetSocketAddress(args[5], Integer.parseInt(args[6]))))
            .authenticator(always(args[3], args[4]))
            .connectTimeout(Duration.ofSeconds(10))
            .sslContext(tls)
            .build();
        HttpRequest request = HttpRequest.newBuilder(URI.create(args[1])).timeout(Duration.ofSeconds(10)).build();
        HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
        return response.statusCode() + " " + response.body();
    }

    static String byUrlConnection(String[] args, SSLContext tls) throws Exception {
        if (args.length > 3) {
            Authenticator.setDefault(always(args[3], args[4]));
        }
        HttpURLConnection connection = (HttpURLConnection) URI.create(args[1]).toURL().openConnection();
        if (connection instanceof HttpsURLConnection https) {
            https.setSSLSocketFactory(tls.getSocketFactory());
        }
        try (InputStream body = connection.getInputStream()) {
            return connection.getResponseCode() + " " + new String(body.readAllBytes());
        }
    }
}
