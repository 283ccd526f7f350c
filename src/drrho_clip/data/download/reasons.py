"""Why a download brings nothing: a closed list, and which of these may pass by themselves."""

PASSING_REASONS = (
    "dns",  # the host's name is not known
    "connection",  # refused, or broken before an answer
    "timeout",  # no whole answer within the time limit
    "http_busy",  # 408, 425, 429, 503
    "http_server",  # any other 5xx
    "cut_short",  # the body ended before its announced end
)
FETCH_REASONS = (
    *PASSING_REASONS,
    "bad_url",  # not http(s), or no URL at all
    "address",  # leads to an address that is not public
    "tls",  # a certificate that does not fit
    "redirects",  # too many
    "http_gone",  # 404, 410
    "http_denied",  # 401, 403, 451
    "http_other",  # any other answer than 200
    "too_large",  # more bytes than allowed
    "robots",  # X-Robots-Tag says noai or noimageai
    "sha256",  # other bytes than the table promises
)
