//! A simulated Proxmox VE API over a laid-out tree: HTTPS on this machine alone, for one node.
//!
//! Written from the public description of the API (parameters, required fields, privileges) and from what the real one
//! says when it refuses. It takes what the real one takes and refuses what the real one refuses: unknown parameters,
//! values out of form, a raw address by a token, a stale digest, a locked VM. The certificate is the simulation's own,
//! its key is in this repository and protects nothing.

mod api;
mod http;
mod mapping;
mod node;
mod schema;
mod state;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use state::State;

/// The CA that signed the simulation's certificate, PEM.
pub const CA: &[u8] = include_bytes!("ca.pem");
/// The certificate's SHA-256 fingerprint, as `pvenode cert info` shows it.
pub const FINGERPRINT: &str =
    "0B:24:26:8B:BF:9B:64:F4:55:EE:9D:3F:77:61:34:55:F5:31:3D:83:32:71:55:C5:B2:8D:AF:85:AF:74:89:0C";

/// Who may speak to the API.
#[derive(Clone, Debug)]
pub struct Account {
    /// "thruway@pve!t1" for a token, "root@pam" for a user.
    pub name: String,
    /// The token's secret, or the password.
    pub secret: String,
    /// Path → privileges, each of which holds below, too.
    pub may: BTreeMap<String, Vec<String>>,
}

/// A running server; it ends when this is dropped.
pub struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the machine that is laid out at `root`, on a free port of 127.0.0.1.
    pub fn start(root: &Path, accounts: Vec<Account>) -> io::Result<Server> {
        let config = tls()?;
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::new(root, accounts)));
        let over = Arc::new(AtomicBool::new(false));
        let (shared, ended, config) = (state.clone(), over.clone(), config);
        let thread = std::thread::spawn(move || {
            for socket in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(socket), shared, config) = (socket, shared.clone(), config.clone()) else { continue };
                // A connection that goes wrong is the client's matter.
                std::thread::spawn(move || drop(serve(socket, &config, &shared)));
            }
        });
        Ok(Server { address, state, over, thread: Some(thread) })
    }

    /// "https://127.0.0.1:PORT"
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Every call so far: "POST /nodes/pve/qemu/100/config".
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// From now on a change takes longer than the API waits, and is a task.
    pub fn slow(&self, slow: bool) {
        self.lock().slow = slow;
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

/// The simulation's own certificate and key.
pub(crate) fn tls() -> io::Result<Arc<ServerConfig>> {
    let other = |error: rustls::Error| io::Error::other(error);
    let pem = |error: rustls::pki_types::pem::Error| io::Error::other(format!("{error:?}"));
    let certs: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(include_bytes!("cert.pem")).collect();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("key.pem")).map_err(pem)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(other)?;
    Ok(Arc::new(config.with_no_client_auth().with_single_cert(certs.map_err(pem)?, key).map_err(other)?))
}

/// One connection, call after call.
fn serve(socket: TcpStream, config: &Arc<ServerConfig>, state: &Mutex<State>) -> io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket);
    while let Some(request) = http::read(&mut stream)? {
        let answer = {
            let mut state = state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            api::answer(&mut state, &request)
        };
        http::write(&mut stream, &answer)?;
    }
    Ok(())
}
