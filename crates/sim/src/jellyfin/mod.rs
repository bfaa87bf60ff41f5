//! A simulated Jellyfin server: the few calls of its REST API that speak of transcoding settings, on this machine alone.
//!
//! Written from the API's public description and what is known of its manners: no token 401, no administrator 403, 204
//! for a POST, which replaces the whole object (a key that is left out becomes its default, one that is not known is passed
//! by), the encoder's path not to be changed, the transcoding directory to be there, the older headers and
//! `?api_key=` refused where the owner has switched them off. Over TLS its certificate is the simulated Proxmox VE's.

mod api;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::{ServerConnection, StreamOwned};
use serde_json::{Map, Value};

use crate::http;

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Administrator,
    /// Any user of the house: may read settings, not change them.
    User,
}

/// One server's state.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// "10.10": the release, which decides on the keys.
    pub release: String,
    pub options: Map<String, Value>,
    pub tokens: BTreeMap<String, Role>,
    pub legacy: bool,
    pub starting: bool,
    /// Directories that are there.
    pub dirs: Vec<String>,
    /// "POST /System/Configuration/encoding 204", each with the header that it was logged in by, if any.
    pub calls: Vec<(String, Option<String>)>,
}

/// A running server; it ends when this is dropped.
pub struct Server {
    address: SocketAddr,
    tls: bool,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The releases that are known: "10.8" to "12.0".
pub fn releases() -> Vec<String> {
    api::all().keys().cloned().collect()
}

impl Server {
    /// Serves a fresh server of this release on a free port of 127.0.0.1, with the release's defaults.
    ///
    /// # Errors
    /// An unknown release; no socket.
    pub fn start(release: &str, tokens: &[(&str, Role)], tls: bool) -> io::Result<Server> {
        let options = api::defaults(release).ok_or_else(|| http::bad("no such release of Jellyfin is simulated"))?;
        let state = State {
            release: release.to_owned(),
            options,
            tokens: tokens.iter().map(|(token, role)| ((*token).to_owned(), *role)).collect(),
            legacy: false,
            starting: false,
            dirs: vec!["/cache/transcodes".into()],
            calls: Vec::new(),
        };
        let config = if tls { Some(crate::pve::tls()?) } else { None };
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(state));
        let over = Arc::new(AtomicBool::new(false));
        let (shared, ended) = (state.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            for socket in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(socket), shared, config) = (socket, shared.clone(), config.clone()) else { continue };
                std::thread::spawn(move || {
                    drop(socket.set_read_timeout(Some(Duration::from_secs(10))));
                    // A connection that goes wrong is the client's matter.
                    match config.map(ServerConnection::new) {
                        None => drop(serve(socket, &shared)),
                        Some(Ok(connection)) => drop(serve(StreamOwned::new(connection, socket), &shared)),
                        Some(Err(_)) => {}
                    }
                });
            }
        });
        Ok(Server { address, tls, state, over, thread: Some(thread) })
    }

    /// "http://127.0.0.1:PORT"
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// The settings as they are.
    pub fn options(&self) -> Map<String, Value> {
        self.lock().options.clone()
    }

    /// Somebody sets this in the web interface.
    pub fn edit(&self, key: &str, value: impl Into<Value>) {
        self.lock().options.insert(key.to_owned(), value.into());
    }

    /// It takes no call yet.
    pub fn starting(&self, starting: bool) {
        self.lock().starting = starting;
    }

    /// The older ways to log in are on (EnableLegacyAuthorization).
    pub fn legacy(&self, on: bool) {
        self.lock().legacy = on;
    }

    /// Every call so far with its answer's status: "GET /System/Info/Public 200"; and the header that it was logged in by.
    pub fn calls(&self) -> Vec<(String, Option<String>)> {
        self.lock().calls.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // wakes the listener up
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// One connection, call after call.
fn serve(mut stream: impl Read + Write, state: &Mutex<State>) -> io::Result<()> {
    while let Some(request) = http::read(&mut stream)? {
        let (status, body) =
            api::answer(&mut state.lock().unwrap_or_else(std::sync::PoisonError::into_inner), &request);
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json; charset=utf-8\r\n" };
        let head = format!("HTTP/1.1 {status} simulated\r\nServer: Kestrel (simulated)\r\n{kind}");
        // 204 has no body, nor its length
        let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        stream.write_all(format!("{head}{length}\r\n{body}").as_bytes())?;
        stream.flush()?;
    }
    Ok(())
}
