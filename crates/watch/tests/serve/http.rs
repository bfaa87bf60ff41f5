//! HTTP by hand: who may ask what, and what is said.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use watch::serve::{Listen, Options, Pem, Server, simulated};

use super::client::{all, ask, get, here, options, parts, run, start};

#[test]
fn nothing_but_reading_and_every_answer_is_guarded() {
    let (server, address) = start(options(), simulated::gt1030);
    for (path, kind) in [
        ("/", "text/html"),
        ("/live", "text/html"),
        ("/metrics", "text/plain; version=0.0.4"),
        ("/api/v1/now", "application/json"),
        ("/api/v1/history", "application/json"),
        ("/api/v1/findings", "application/json"),
        ("/style.css?1", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
        ("/healthz", "text/plain"),
    ] {
        let (status, head, body) = get(address, path);
        assert_eq!(status, 200, "{path}");
        assert!(head.contains(&format!("content-type: {kind}")) && !body.is_empty(), "{path}: {head}");
        for guard in [
            "default-src 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "frame-ancestors 'none'",
        ] {
            assert!(head.contains(guard), "{path} without {guard}: {head}");
        }
        assert!(!head.contains("unsafe") && !head.contains("access-control"), "{head}");
        let (status, head, body) =
            ask(address, &format!("HEAD {path} HTTP/1.1\r\nHost: [::1]:9\r\nConnection: close\r\n\r\n"));
        assert!(status == 200 && body.is_empty() && head.contains("content-length: "), "{path}: {head}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"] {
        let (status, head, _) =
            ask(address, &format!("{method} / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        assert!(
            status == 405 && head.contains("allow: get, head") || method == "CONNECT" && status >= 400,
            "{method}: {head}"
        );
    }
    assert_eq!(get(address, "/../etc/passwd").0, 404);
    let (status, ..) = ask(address, "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert_eq!(status, 421, "another site's name that points here");
    server.stop();
}

#[test]
fn openmetrics_where_it_is_asked_for() {
    let (server, address) = start(options(), simulated::gt1030);
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let (_, head, body) =
        ask(address, &format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{accept}Connection: close\r\n\r\n"));
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("\n# EOF\n") && body.contains("# TYPE thruway_gpu info\n"), "{body}");
    let (_, _, body) = get(address, "/metrics");
    assert!(!body.contains("# EOF") && body.contains("\nthruway_up 1\n"), "{body}");
    server.stop();
}

#[test]
fn strangers_are_not_let_in_by_mistake() {
    let open = |more: Options| {
        let listen = vec![Listen::Tcp(SocketAddr::from(([0, 0, 0, 0], 0)))];
        Server::start(Options { listen, ..more }, simulated::gt1030, simulated::chain).map(Server::stop)
    };
    let token = Some(b"0123456789abcdef".to_vec());
    let refused = open(options()).expect_err("open to all");
    assert!(refused.contains("--tls-cert") && refused.contains("--behind-proxy"), "{refused}");
    assert!(open(Options { token: token.clone(), ..options() }).is_err(), "a token in the clear");
    assert!(open(Options { token: Some(b"short".to_vec()), behind_proxy: true, ..options() }).is_err());
    assert!(open(Options { token, behind_proxy: true, ..options() }).is_ok());
}

#[test]
fn a_token_is_asked_for() {
    let token = Some(b"0123456789abcdef".to_vec());
    let server = Server::start(Options { token, ..options() }, simulated::gt1030, simulated::chain).expect("a server");
    let address = server.addresses[0];
    let (status, head, body) = get(address, "/");
    assert!(status == 401 && head.contains("www-authenticate: basic") && !body.contains("GT 1030"), "{head}");
    assert_eq!(get(address, "/healthz").0, 200, "a probe needs none");
    for (given, want) in [
        ("Bearer 0123456789abcdef", 200),
        ("Basic bWU6MDEyMzQ1Njc4OWFiY2RlZg==", 200),
        ("Bearer 0123456789abcdeX", 401),
        ("Bearer", 401),
    ] {
        let request =
            format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: {given}\r\nConnection: close\r\n\r\n");
        assert_eq!(ask(address, &request).0, want, "{given}");
    }
    assert_eq!(get(address, "/?token=0123456789abcdef").0, 401, "never in an address, which logs keep");
    server.stop();
}

#[test]
fn a_hung_driver_holds_up_nobody_else() {
    let mut looks = 0;
    let hangs = move || {
        looks += 1;
        if looks > 1 {
            std::thread::sleep(Duration::from_secs(3600));
        }
        simulated::gt1030()
    };
    let patience = Duration::from_millis(400);
    let options = Options { fresh: Duration::ZERO, patience, ..options() };
    let server = Server::start(options, hangs, simulated::chain).expect("a server");
    let address = server.addresses[0];
    while get(address, "/readyz").0 != 200 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let begun = Instant::now();
    let (_, _, body) = get(address, "/metrics");
    assert!(body.contains("\nthruway_up 0\n") && body.contains("thruway_gpu_temperature_celsius{"), "{body}");
    let age = body.lines().find_map(|line| line.strip_prefix("thruway_sample_age_seconds "));
    assert!(age.and_then(|age| age.parse::<f64>().ok()).is_some_and(|age| age > 0.3), "{body}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    std::thread::sleep(patience);
    let (status, _, page) = get(address, "/");
    assert!(status == 200 && page.contains("The driver does not answer"), "{page}");
    server.stop();
}

#[test]
fn a_stop_lets_an_answer_end() {
    let slow = || {
        std::thread::sleep(Duration::from_millis(700));
        simulated::gt1030()
    };
    let options = Options { fresh: Duration::ZERO, ..options() };
    let server = Server::start(options, slow, simulated::chain).expect("a server");
    let mut stream = TcpStream::connect(server.addresses[0]).expect("a connection");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a request");
    std::thread::sleep(Duration::from_millis(200));
    let stopping = std::thread::spawn(move || server.stop());
    let mut some = [0; 64];
    let count = stream.read(&mut some).expect("an answer");
    assert!(some[..count].starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&some));
    stopping.join().expect("it stops");
    assert!(TcpStream::connect(stream.peer_addr().expect("an address")).is_err(), "nobody listens any more");
}

fn certificate(dir: &std::path::Path, name: &str) -> Pem {
    let (key, cert) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.pem")));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "9"]);
    openssl.args([
        "-subj",
        &format!("/CN={name}"),
        "-addext",
        "subjectAltName=DNS:localhost",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]);
    let (code, said) = run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&cert));
    assert_eq!(code, 0, "{said}");
    Pem { certificate: std::fs::read(cert).expect("a certificate"), key: std::fs::read(key).expect("a key") }
}

/// A request over TLS by one who believes this certificate alone.
fn secure(address: SocketAddr, believed: &Pem) -> std::io::Result<Vec<u8>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&believed.certificate).expect("a certificate")).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let name = ServerName::try_from("localhost").expect("a name");
    let client = rustls::ClientConnection::new(config, name).expect("a client");
    let mut stream = rustls::StreamOwned::new(client, TcpStream::connect(address)?);
    stream.write_all(
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer 0123456789abcdef\r\nConnection: close\r\n\r\n",
    )?;
    all(&mut stream)
}

#[test]
fn tls_and_a_certificate_that_is_renewed() {
    if !here("openssl") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (old, new) = (certificate(dir.path(), "old"), certificate(dir.path(), "new"));
    let options = Options {
        listen: vec![Listen::Tcp(SocketAddr::from(([0, 0, 0, 0], 0)))],
        tls: Some(old.clone()),
        token: Some(b"0123456789abcdef".to_vec()),
        ..options()
    };
    let server = Server::start(options, simulated::gt1030, simulated::chain).expect("a server");
    let address = SocketAddr::from(([127, 0, 0, 1], server.addresses[0].port()));
    let (status, _, body) = parts(&secure(address, &old).expect("an answer"));
    assert!(status == 200 && body.contains("thruway_up 1"), "{body}");
    assert!(secure(address, &new).is_err(), "another certificate is not believed");
    let mixed = Pem { certificate: new.certificate.clone(), key: old.key.clone() };
    assert!(server.renew(&mixed).is_err(), "a key of another certificate");
    server.renew(&new).expect("a new one");
    let begun = Instant::now();
    while secure(address, &new).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the new one never came");
    }
    let mut plain = TcpStream::connect(address).expect("a connection");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request");
    let said = all(&mut plain).unwrap_or_default();
    assert!(!String::from_utf8_lossy(&said).contains("200 OK"), "no answer in the clear");
    server.stop();
}

#[test]
fn a_sockets_file_serves_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("serve.sock");
    let listen = vec![Listen::Unix(path.clone())];
    let server = Server::start(Options { listen, ..options() }, simulated::gt1030, simulated::chain).expect("a server");
    let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("a connection");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n").expect("a request");
    assert_eq!(parts(&all(&mut stream).expect("an answer")).0, 200);
    server.stop();
}

#[test]
fn hostile_names_stay_names() {
    let (server, address) = start(options(), simulated::hostile);
    let (_, _, page) = get(address, "/");
    assert!(page.contains("&lt;script&gt;document.title=&#39;owned&#39;"), "{page}");
    assert_eq!(page.matches("<script").count(), 1, "the page's own alone");
    assert!(!page.contains("<img") && !page.contains('\u{202e}'), "{page}");
    let (_, _, metrics) = get(address, "/metrics");
    assert!(metrics.contains(r#"<script>document.title='owned'</script>\"'} 1\nevil 1"#), "{metrics}");
    assert!(!metrics.lines().any(|line| line.starts_with("evil")), "{metrics}");
    server.stop();
}
