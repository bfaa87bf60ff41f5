//! Words that say "what follows is secret".

/// Ends of keys whose value is a secret, lower case, without separators.
const KEYS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "accesskeyid",
    "secretkey",
    "privatekey",
    "clientkeydata",
    "clientcertificatedata",
    "certificateauthoritydata",
    "credential",
    "credentials",
    "authkey",
    "psk",
    "sshkeys",
    "pveapitoken",
    "authorization",
    "pwd_hash",
    "proxyauth",
];

/// `DB_PASSWORD`, `client-key-data`, `auth`; not `secretName`, `tokenExpirationSeconds`.
pub(super) fn is_secret_key(key: &str) -> bool {
    let plain: String = key.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect();
    plain == "auth" || KEYS.iter().any(|end| plain.ends_with(end))
}

/// A program's option whose argument is a secret: `--password`.
pub(super) fn is_secret_flag(word: &str) -> bool {
    word.starts_with("--") && !word.contains(['=', ' ']) && is_secret_key(word)
}

pub(super) fn is_version_key(key: &str) -> bool {
    let plain = key.to_ascii_lowercase();
    plain.ends_with("version") || plain == "vbios" || plain.ends_with("release")
}

/// Values that stand under such keys and give nothing away.
pub(super) fn is_harmless(value: &str) -> bool {
    let plain = value.trim().to_ascii_lowercase();
    matches!(
        plain.as_str(),
        "" | "true" | "false" | "null" | "none" | "yes" | "no" | "on" | "off" | "0" | "1" | "*" | "x" | "!" | "~"
    ) || plain.starts_with("redacted-")
        || plain.starts_with(['{', '[', '$']) && !is_hash(&plain)
}

/// A crypt(3) hash: `$6$salt$…`.
pub(super) fn is_hash(text: &str) -> bool {
    ["$1$", "$5$", "$6$", "$y$", "$2a$", "$2b$", "$2y$", "$7$", "$gy$"].iter().any(|start| text.starts_with(start))
}

/// Beginnings of tokens that are known by themselves.
pub(super) const TOKENS: &[&[u8]] = &[
    b"eyJ",
    b"ghp_",
    b"gho_",
    b"ghs_",
    b"github_pat_",
    b"glpat-",
    b"nvapi-",
    b"AKIA",
    b"xoxb-",
    b"xoxp-",
    b"LS0tLS1CRUdJTi",
    b"AAAAB3NzaC1",
    b"AAAAC3NzaC1",
    b"AAAAE2VjZHNh",
    b"AAAAGnNr",
    b"AAAAInNr",
    b"$1$",
    b"$5$",
    b"$6$",
    b"$y$",
    b"$2a$",
    b"$2b$",
    b"$2y$",
    b"$7$",
    b"$gy$",
];
