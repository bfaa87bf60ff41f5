//! A simulated API server: HTTPS on this machine alone, for the kinds that thruway speaks of.
//!
//! Written from the public documents (kubernetes.io: API Concepts, Server-Side Apply, RBAC, NodeRestriction, admission
//! policies; the OpenAPI document's list types). It takes what the real one takes and refuses what the real one refuses: an
//! unknown token (401), what RBAC and admission forbid (403), a conflict of field managers or of versions (409), a version that
//! is forgotten (410), illegal labels and events (422), and where a test says so, too many requests (429), slowness and an
//! outage. Controllers place DaemonSets and Deployments, a scheduler counts extended resources.
//!
//! What it is not: it knows no schemas (unknown fields are kept), evaluates no CEL (the policy that binds an account to its
//! node is built in), and keeps no ReplicaSets. The certificate is the simulation's own, its key is in this repository and
//! protects nothing.

mod access;
mod controllers;
mod fields;
mod http;
mod kinds;
mod managed;
mod route;
mod select;
mod status;
mod store;

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

pub use access::{Account, Rule};

use http::Answer;
use kinds::Kind;
use managed::Who;
use route::{Outcome, Watching};
use store::Store;

/// The CA that signed the simulation's certificate, PEM.
pub const CA: &[u8] = include_bytes!("ca.pem");

/// How the server is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Changes that it remembers: a watch from before is told 410.
    pub history: usize,
    /// Its seconds are so much shorter: 1000 has an hour pass in 3.6 s.
    pub speed: u32,
    /// Seconds of its clock between a watch's bookmarks.
    pub bookmark: u64,
    /// Admission holds a service account to the node in its token.
    pub own_node: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { history: 10_000, speed: 1, bookmark: 60, own_node: true }
    }
}

/// One request, as it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub user: String,
    pub method: String,
    /// With the query.
    pub path: String,
    pub code: u16,
    /// Bytes of HTTP, without TLS: what came, and what went (of a watch: so far).
    pub came: usize,
    pub went: usize,
}

#[derive(Default)]
struct Faults {
    /// So many requests are refused with 429, Retry-After in seconds.
    busy: (usize, u64),
    /// So many are answered with 500.
    broken: usize,
    slow: Duration,
    down: bool,
}

struct Inner {
    store: Store,
    accounts: Vec<Account>,
    calls: Vec<Call>,
    /// Calls that are counted no more.
    cleared: usize,
    faults: Faults,
    sockets: Vec<TcpStream>,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    over: AtomicBool,
    options: Options,
    begun: Instant,
}

/// A running server; it ends when this is dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves an empty cluster (with its four namespaces) on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// What the operating system says of the port.
    pub fn start(accounts: Vec<Account>, options: Options) -> io::Result<Server> {
        let other = |error: rustls::Error| io::Error::other(error);
        let pem = |error: rustls::pki_types::pem::Error| io::Error::other(format!("{error:?}"));
        let certs: Result<Vec<CertificateDer<'static>>, _> =
            CertificateDer::pem_slice_iter(include_bytes!("cert.pem")).collect();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("key.pem")).map_err(pem)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(other)?;
        let config = config.with_no_client_auth().with_single_cert(certs.map_err(pem)?, key).map_err(other)?;
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let inner = Inner {
            store: Store::new(options.history),
            accounts,
            calls: Vec::new(),
            cleared: 0,
            faults: Faults::default(),
            sockets: Vec::new(),
        };
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            over: AtomicBool::new(false),
            options,
            begun: Instant::now(),
        });
        let (for_thread, config) = (shared.clone(), Arc::new(config));
        let thread = std::thread::spawn(move || {
            for socket in listener.incoming() {
                if for_thread.over.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(socket), shared, config) = (socket, for_thread.clone(), config.clone()) else { continue };
                // A connection that goes wrong is the client's matter.
                std::thread::spawn(move || drop(serve(socket, &config, &shared)));
            }
        });
        let server = Server { address, shared, thread: Some(thread) };
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            server.put("kube-apiserver", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        }
        Ok(server)
    }

    /// "https://127.0.0.1:PORT"
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A kubeconfig for the account with that token.
    pub fn kubeconfig(&self, token: &str) -> String {
        let ca = base64::engine::general_purpose::STANDARD.encode(CA);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "simulated",
            "clusters": [{"name": "simulated", "cluster": {"server": self.url(), "certificate-authority-data": ca}}],
            "users": [{"name": "simulated", "user": {"token": token}}],
            "contexts": [{"name": "simulated", "context": {"cluster": "simulated", "user": "simulated"}}],
        });
        config.to_string()
    }

    pub fn account(&self, account: Account) {
        self.lock().accounts.push(account);
    }

    /// Makes an object or replaces it, status and all, as that field manager; the controllers run.
    ///
    /// # Panics
    /// The object is of no kind that is served.
    #[allow(clippy::panic, reason = "a test's own mistake")]
    pub fn put(&self, manager: &str, object: Value) {
        let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (name, namespace) = (text("/metadata/name"), text("/metadata/namespace"));
        let Some(kind) = Kind::named(&text("/kind")) else { panic!("the kind {} is not served", text("/kind")) };
        let mut inner = self.lock();
        let old = inner.store.get(kind, &namespace, &name);
        let (now, version) = (inner.store.now(), kind.api_version());
        let who = Who { manager, subresource: "", api_version: &version, now: &now };
        let mut next = object;
        managed::changed(old.as_deref().unwrap_or(&Value::Null), &mut next, &who);
        inner.store.put(kind, next);
        self.settle(&mut inner);
    }

    /// A merge patch over the whole object, as that field manager; false where there is none.
    pub fn patch(&self, manager: &str, kind: &str, namespace: &str, name: &str, patch: &Value) -> bool {
        let Some(kind) = Kind::named(kind) else { return false };
        let mut inner = self.lock();
        let Some(old) = inner.store.get(kind, namespace, name) else { return false };
        let mut next = (*old).clone();
        managed::merge_patch(&mut next, patch);
        let (now, version) = (inner.store.now(), kind.api_version());
        let who = Who { manager, subresource: "", api_version: &version, now: &now };
        managed::changed(&old, &mut next, &who);
        inner.store.put(kind, next);
        self.settle(&mut inner);
        true
    }

    /// The object as it is.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = Kind::named(kind)?;
        self.lock().store.get(kind, namespace, name).map(|object| (*object).clone())
    }

    /// All objects of a kind, of all namespaces.
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let Some(kind) = Kind::named(kind) else { return Vec::new() };
        self.lock().store.list(kind, "").iter().map(|object| (**object).clone()).collect()
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// From now on the calls are counted anew. A watch that runs is not seen any more.
    pub fn count_anew(&self) {
        let mut inner = self.lock();
        inner.cleared += inner.calls.len();
        inner.calls.clear();
    }

    /// Forgets what happened: watches from before are told 410.
    pub fn forget(&self) {
        self.lock().store.forget();
    }

    /// The next so many requests are refused with 429.
    pub fn busy(&self, requests: usize, retry_after: u64) {
        self.lock().faults.busy = (requests, retry_after);
    }

    /// The next so many requests are answered with 500.
    pub fn broken(&self, requests: usize) {
        self.lock().faults.broken = requests;
    }

    /// Each answer takes so much longer.
    pub fn slow(&self, by: Duration) {
        self.lock().faults.slow = by;
    }

    /// Every connection breaks at once, and none is served while it is down.
    pub fn down(&self, down: bool) {
        let mut inner = self.lock();
        inner.faults.down = down;
        if down {
            for socket in inner.sockets.drain(..) {
                drop(socket.shutdown(Shutdown::Both));
            }
        }
        self.shared.changed.notify_all();
    }

    fn settle(&self, inner: &mut Inner) {
        controllers::settle(&mut inner.store);
        self.shared.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.lock()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.down(true);
        // wakes the listener up
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.store.seconds = self.begun.elapsed().as_secs() * u64::from(self.options.speed.max(1));
        inner
    }

    fn over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// One connection, call after call.
fn serve(socket: TcpStream, config: &Arc<ServerConfig>, shared: &Shared) -> io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(120)))?;
    socket.set_nodelay(true)?;
    {
        let mut inner = shared.lock();
        if inner.faults.down {
            return Ok(());
        }
        inner.sockets.push(socket.try_clone()?);
    }
    let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket);
    while let Some(request) = http::read(&mut stream)? {
        let (mut outcome, call, slow) = {
            let mut inner = shared.lock();
            let inner = &mut *inner;
            let (user, outcome) = answer(inner, shared.options.own_node, &request);
            controllers::settle(&mut inner.store);
            shared.changed.notify_all();
            let query: Vec<String> = request.query.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let path =
                if query.is_empty() { request.path.clone() } else { format!("{}?{}", request.path, query.join("&")) };
            let code = match &outcome {
                Outcome::Answer(answer) => answer.code,
                Outcome::Watch(_) => 200,
            };
            inner.calls.push(Call { user, method: request.method.clone(), path, code, came: request.size, went: 0 });
            (outcome, inner.cleared + inner.calls.len() - 1, inner.faults.slow)
        };
        std::thread::sleep(slow);
        let went = |bytes: usize| {
            let mut inner = shared.lock();
            let at = call.checked_sub(inner.cleared);
            if let Some(call) = at.and_then(|at| inner.calls.get_mut(at)) {
                call.went += bytes;
            }
        };
        match &mut outcome {
            Outcome::Answer(answer) => went(http::write(&mut stream, answer)?),
            Outcome::Watch(watching) => watch(&mut stream, watching, shared, &went)?,
        }
    }
    Ok(())
}

fn answer(inner: &mut Inner, policy: bool, request: &http::Request) -> (String, Outcome) {
    let token = request.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
    let account = inner.accounts.iter().find(|account| account.token == token).cloned();
    let user = account.as_ref().map_or("system:anonymous".to_owned(), |account| account.user.clone());
    let refused = |answer: Answer| Outcome::Answer(answer);
    if !token.is_empty() && account.is_none() {
        return (user, refused(status::refusal(401, "Unauthorized", "Unauthorized")));
    }
    if inner.faults.busy.0 > 0 {
        inner.faults.busy.0 -= 1;
        return (user, refused(status::busy(inner.faults.busy.1)));
    }
    if inner.faults.broken > 0 {
        inner.faults.broken -= 1;
        return (user, refused(status::refusal(500, "InternalError", "Internal error occurred: (simulated)")));
    }
    let outcome = route::answer(&mut inner.store, account.as_ref(), policy, request);
    (user, outcome)
}

fn watch(
    stream: &mut StreamOwned<ServerConnection, TcpStream>,
    watching: &Watching,
    shared: &Shared,
    went: &dyn Fn(usize),
) -> io::Result<()> {
    let speed = shared.options.speed.max(1);
    let end = Instant::now() + Duration::from_secs(watching.last) / speed;
    let every = Duration::from_secs(shared.options.bookmark) / speed;
    let mut mark = Instant::now() + every;
    went(http::begin_stream(stream)?);
    let mut at = watching.from;
    if at == 0 {
        // "any version": what is there first, as added
        let (objects, version) = {
            let inner = shared.lock();
            (inner.store.list(watching.kind, &watching.namespace), inner.store.version)
        };
        for object in objects {
            let kind = watching.kind.kind;
            let event =
                store::Event { version, kind, namespace: watching.namespace.clone(), old: None, new: Some(object) };
            if let Some(told) = watching.told(&event) {
                went(http::chunk(stream, Some(&told))?);
            }
        }
        at = version;
    }
    loop {
        let (events, version) = {
            let inner = shared.lock();
            let found: Vec<Value> = inner.store.since(at).filter_map(|event| watching.told(event)).collect();
            let version = inner.store.version;
            let now = Instant::now();
            if found.is_empty() && now < end && (!watching.bookmarks || now < mark) && version == at && !shared.over() {
                let until = if watching.bookmarks { end.min(mark) } else { end };
                let wait = until.saturating_duration_since(now).min(Duration::from_millis(500));
                drop(shared.changed.wait_timeout(inner, wait));
                continue;
            }
            (found, version)
        };
        at = version;
        for event in &events {
            went(http::chunk(stream, Some(event))?);
        }
        let now = Instant::now();
        let over = now >= end || shared.over();
        if watching.bookmarks && (now >= mark || over) {
            went(http::chunk(stream, Some(&watching.bookmark(at)))?);
            mark = now + every;
        }
        if over {
            went(http::chunk(stream, None)?);
            return Ok(());
        }
    }
}
