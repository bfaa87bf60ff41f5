//! Which names of resources the kubelet takes.
//!
//! Source: kubernetes.io, "Extended resources" and "Object names": a DNS subdomain that is not of kubernetes.io, `/`, and a
//! qualified name of 63 characters at most; quotas put `requests.` before it, which must still fit.

/// # Errors
/// Why it is no name of an extended resource.
pub fn extended_resource(name: &str) -> Result<(), String> {
    let Some((domain, word)) = name.split_once('/') else {
        return Err("it has no domain (nvidia.com/gpu has)".into());
    };
    if domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") {
        return Err("kubernetes.io is Kubernetes' own".into());
    }
    if domain.starts_with("requests.") {
        return Err("requests. is the quotas' own".into());
    }
    let label = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if "requests.".len() + domain.len() > 253 || !domain.split('.').all(label) {
        return Err(format!("\"{domain}\" is no DNS subdomain"));
    }
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !(1..=63).contains(&word.len())
        || !word.bytes().all(inner)
        || !edge(word.bytes().next())
        || !edge(word.bytes().last())
    {
        return Err(format!("\"{word}\" is no qualified name of at most 63 characters"));
    }
    Ok(())
}
