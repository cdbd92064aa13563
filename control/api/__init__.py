"""The operator's API: HTTP and JSON on aiohttp. Translates; decides nothing."""
