//! Who may ask: a token where one is set, and no page of another site by a name that it points here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST};

/// The shortest token that is taken.
pub const SHORTEST: usize = 16;

/// `Authorization: Bearer TOKEN`, or Basic with the token as password, whatever the user: browsers ask for that by themselves.
pub fn allowed(headers: &HeaderMap, token: &[u8]) -> bool {
    let Some(text) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else { return false };
    let Some((scheme, rest)) = text.trim().split_once(' ') else { return false };
    if scheme.eq_ignore_ascii_case("bearer") {
        return same(rest.trim().as_bytes(), token);
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return false;
    }
    let Ok(pair) = STANDARD.decode(rest.trim()) else { return false };
    let password = pair.iter().position(|byte| *byte == b':').and_then(|at| pair.get(at + 1..));
    password.is_some_and(|password| same(password, token))
}

/// In a time that does not tell where they differ.
fn same(told: &[u8], token: &[u8]) -> bool {
    let differ = told.iter().zip(token.iter().cycle()).fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
    !token.is_empty() && told.len() == token.len() && differ == 0
}

/// Whether the name by which a browser asks is this machine's own: else another site's name points here (DNS rebinding).
/// Without a Host header it is no browser.
pub fn own_name(headers: &HeaderMap, more: &[String]) -> bool {
    let Some(host) = headers.get(HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let loopback = name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    loopback || name.eq_ignore_ascii_case("localhost") || more.iter().any(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: hyper::header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("a header"))])
    }

    #[test]
    fn the_token_comes_as_bearer_or_as_password() {
        let token = b"0123456789abcdef";
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for good in ["Bearer 0123456789abcdef".to_owned(), basic("me:0123456789abcdef"), basic(":0123456789abcdef")] {
            assert!(allowed(&with(AUTHORIZATION, &good), token), "{good}");
        }
        let bad = [
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcdef0",
            "Bearer ",
            "Bearer",
            "Basic !!",
            "0123456789abcdef",
        ];
        for bad in bad.map(str::to_owned).into_iter().chain([basic("0123456789abcdef:"), basic("0123456789abcdef")]) {
            assert!(!allowed(&with(AUTHORIZATION, &bad), token), "{bad}");
        }
        assert!(!allowed(&HeaderMap::new(), token) && !allowed(&with(AUTHORIZATION, "Bearer "), b""));
    }

    #[test]
    fn another_sites_name_is_refused() {
        let more = ["gpu.example".to_owned()];
        for own in
            ["localhost:9466", "LOCALHOST", "127.0.0.1:9466", "127.9.9.9", "[::1]:9466", "[::1]", "gpu.example:1"]
        {
            assert!(own_name(&with(HOST, own), &more), "{own}");
        }
        for other in ["evil.example:9466", "127.0.0.1.evil.example", "192.0.2.1", "", "localhost.evil.example"] {
            assert!(!own_name(&with(HOST, other), &more), "{other}");
        }
        assert!(own_name(&HeaderMap::new(), &more));
    }
}
