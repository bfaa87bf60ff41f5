//! `thruway serve`: a Prometheus exporter and a page in one. One thread answers, one looks, one lets the doctor look; an answer
//! never waits for more than its patience, and nothing can be changed over it.

mod access;
mod api;
mod body;
pub mod chain;
mod dcgm;
mod guard;
mod keep;
mod names;
mod page;
mod picture;
mod plot;
#[doc(hidden)]
pub mod simulated;
mod site;
mod smi;
mod text;
mod whose;

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcp};
use std::os::unix::net::UnixListener as StdUnix;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

pub use access::SHORTEST;
use chain::Chain;
use guard::{Guarded, Place, Table};
use keep::Keeper;
pub use keep::Source;
use site::Site;
pub use text::{Form, Kind, Offered};

/// Where it is served unless told otherwise.
pub const PORT: u16 = 9466;
/// A request's head is no longer; hyper answers 431.
const HEAD_BYTES: usize = 16 << 10;
const HEADERS: usize = 64;
/// How long connections may take to end at a stop.
const LAST: Duration = Duration::from_secs(3);

/// Whose names metrics go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    Thruway,
    Dcgm,
    NvidiaGpuExporter,
}

/// How dcgm-exporter's label of the machine is spelt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostLabel {
    /// "Hostname", as every release has it.
    #[default]
    Upper,
    /// "hostname", as its newest code has it.
    Lower,
}

impl HostLabel {
    fn label(self) -> &'static str {
        match self {
            HostLabel::Upper => "Hostname",
            HostLabel::Lower => "hostname",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    /// A socket in the file system; who may connect is its mode's matter.
    Unix(std::path::PathBuf),
}

/// A certificate chain and its key, both PEM.
#[derive(Clone)]
pub struct Pem {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

#[derive(Clone)]
pub struct Options {
    pub listen: Vec<Listen>,
    pub tls: Option<Pem>,
    pub token: Option<Vec<u8>>,
    /// Something before it sees to TLS and to who may ask.
    pub behind_proxy: bool,
    /// Names by which it may be asked over loopback, beside localhost.
    pub hosts: Vec<String>,
    /// A sample that is no older answers a scrape.
    pub fresh: Duration,
    /// So often it looks though nobody asks.
    pub every: Duration,
    /// So often the doctor looks.
    pub doctor_every: Duration,
    /// No answer waits longer for the driver.
    pub patience: Duration,
    pub names: Vec<Names>,
    pub dcgm_host: HostLabel,
    /// Series a family at the most.
    pub most: usize,
    /// What this machine calls itself.
    pub host: String,
}

impl Default for Options {
    fn default() -> Self {
        let loopback =
            [SocketAddr::from(([127, 0, 0, 1], PORT)), SocketAddr::from(([0u16, 0, 0, 0, 0, 0, 0, 1], PORT))];
        Options {
            listen: loopback.map(Listen::Tcp).to_vec(),
            tls: None,
            token: None,
            behind_proxy: false,
            hosts: Vec::new(),
            fresh: Duration::from_secs(1),
            every: Duration::from_secs(15),
            doctor_every: Duration::from_secs(300),
            patience: Duration::from_secs(5),
            names: vec![Names::Thruway],
            dcgm_host: HostLabel::Upper,
            most: 2000,
            host: String::new(),
        }
    }
}

impl Options {
    /// # Errors
    /// What is asked for would let strangers in; says what to add.
    pub fn check(&self) -> Result<(), String> {
        let open = self.listen.iter().find_map(|listen| match listen {
            Listen::Tcp(address) if !address.ip().is_loopback() => Some(address),
            _ => None,
        });
        if let Some(token) = &self.token {
            if token.len() < SHORTEST {
                return Err(format!("the token is shorter than {SHORTEST} bytes: openssl rand -hex 24 makes one"));
            }
            if token.iter().any(|byte| !byte.is_ascii_graphic()) {
                return Err("the token holds a character that no header can: openssl rand -hex 24 makes one".into());
            }
        }
        match open {
            Some(address) if !self.behind_proxy && (self.tls.is_none() || self.token.is_none()) => Err(format!(
                "{address} can be reached by others: it is served with --tls-cert, --tls-key and --token-file, or with \
                 --behind-proxy where something before it sees to both"
            )),
            _ => Ok(()),
        }
    }
}

/// Every family of these options, in order: for the manual, and to hold it to.
///
/// # Errors
/// No thread could be had.
pub fn catalogue(options: Options) -> io::Result<Vec<Offered>> {
    site::catalogue(options)
}

/// The metrics of one sample as text, as a scrape has them before this program's own numbers.
pub fn render(sample: &crate::Sample, chain: &Chain, options: &Options, form: Form) -> String {
    let picture = picture::Picture {
        sample,
        cards: sample.cards.iter().map(picture::Card::new).collect(),
        chain,
        xids: &[],
        host: &options.host,
        up: sample.driver.unreadable().is_none(),
        time: sample.time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        took: 0.0,
        failed: 0,
    };
    let mut text = text::Text::new(form, options.most);
    site::families(&mut text, &picture, options);
    text.into_text()
}

enum Order {
    Stop,
    Tls(TlsAcceptor),
}

/// A server that runs.
pub struct Server {
    /// Where it listens; a port that was 0 is the one that was given.
    pub addresses: Vec<SocketAddr>,
    orders: mpsc::UnboundedSender<Order>,
    thread: std::thread::JoinHandle<()>,
}

enum Ear {
    Tcp(StdTcp),
    Unix(StdUnix),
}

impl Server {
    /// Binds, begins to look, and returns.
    ///
    /// # Errors
    /// What [`Options::check`] refuses, an address that cannot be had, a certificate that cannot be used.
    pub fn start(
        options: Options,
        source: impl Source,
        doctor: impl FnMut() -> Chain + Send + 'static,
    ) -> Result<Server, String> {
        options.check()?;
        let tls = options.tls.as_ref().map(acceptor).transpose()?;
        let (mut ears, mut addresses) = (Vec::new(), Vec::new());
        for (n, listen) in options.listen.iter().enumerate() {
            let ear = match listen {
                Listen::Tcp(address) => match StdTcp::bind(address) {
                    Ok(ear) => {
                        addresses.extend(ear.local_addr());
                        Ear::Tcp(ear)
                    }
                    // a machine without IPv6 has no ::1
                    Err(error)
                        if n > 0 && address.ip().is_loopback() && error.kind() == io::ErrorKind::AddrNotAvailable =>
                    {
                        continue;
                    }
                    Err(error) => return Err(format!("{address} cannot be listened on: {error}")),
                },
                Listen::Unix(path) => {
                    Ear::Unix(StdUnix::bind(path).map_err(|e| format!("{} cannot be made: {e}", path.display()))?)
                }
            };
            ears.push(ear);
        }
        let thread = |error: io::Error| format!("no thread could be had: {error}");
        let keeper = Keeper::begin(source, options.every).map_err(thread)?;
        let said = keep::doctor(doctor, options.doctor_every).map_err(thread)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(thread)?;
        let (orders, wanted) = mpsc::unbounded_channel();
        let run = move || {
            let local = LocalSet::new();
            local.block_on(&runtime, serve(Site::new(options, keeper, said), ears, tls, wanted));
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("serve".into()).spawn(run).map_err(thread)?;
        Ok(Server { addresses, orders, thread })
    }

    /// New connections get this certificate; those that are open keep theirs.
    ///
    /// # Errors
    /// It cannot be used; the old one goes on.
    pub fn renew(&self, pem: &Pem) -> Result<(), String> {
        let _ = self.orders.send(Order::Tls(acceptor(pem)?));
        Ok(())
    }

    /// Takes no more connections, lets answers that are under way end, and returns.
    pub fn stop(self) {
        let _ = self.orders.send(Order::Stop);
        let _ = self.thread.join();
    }
}

fn acceptor(pem: &Pem) -> Result<TlsAcceptor, String> {
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&pem.certificate).collect();
    let chain = chain.map_err(|error| format!("the certificate is no PEM: {error:?}"))?;
    if chain.is_empty() {
        return Err("the certificate's file holds none".into());
    }
    let key = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|error| format!("the key is no PEM: {error:?}"))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let config = builder.with_no_client_auth().with_single_cert(chain, key);
    let mut config = config.map_err(|error| format!("certificate and key do not go together: {error}"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(site: Site, ears: Vec<Ear>, tls: Option<TlsAcceptor>, mut wanted: mpsc::UnboundedReceiver<Order>) {
    let site = Rc::new(site);
    let (renew, tls) = watch::channel(tls);
    let mut listening = Vec::new();
    for ear in ears {
        listening.push(tokio::task::spawn_local(listen(Rc::clone(&site), ear, tls.clone())));
    }
    let table = Rc::clone(&site.table);
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            order = wanted.recv() => match order {
                Some(Order::Tls(acceptor)) => drop(renew.send(Some(acceptor))),
                Some(Order::Stop) | None => break,
            },
            _ = tick.tick() => table.sweep(),
        }
    }
    listening.iter().for_each(tokio::task::JoinHandle::abort);
    let began = Instant::now();
    while !table.quiet() && began.elapsed() < LAST {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn listen(site: Rc<Site>, ear: Ear, tls: watch::Receiver<Option<TlsAcceptor>>) {
    match ear {
        Ear::Tcp(ear) => {
            let loopback = ear.local_addr().is_ok_and(|address| address.ip().is_loopback());
            let strict = loopback && !site.behind_proxy();
            let Ok(ear) = ear.set_nonblocking(true).and_then(|()| TcpListener::from_std(ear)) else { return };
            loop {
                match ear.accept().await {
                    Ok((stream, _)) => {
                        let _ = stream.set_nodelay(true);
                        let acceptor = tls.borrow().clone();
                        begin(&site, stream, acceptor, strict);
                    }
                    Err(_) => no_room(&site.table).await,
                }
            }
        }
        Ear::Unix(ear) => {
            let Ok(ear) = ear.set_nonblocking(true).and_then(|()| UnixListener::from_std(ear)) else { return };
            loop {
                match ear.accept().await {
                    // TLS is for the network; no browser is led to a socket's file
                    Ok((stream, _)) => begin(&site, stream, None, false),
                    Err(_) => no_room(&site.table).await,
                }
            }
        }
    }
}

/// No descriptor is left: one connection goes, and a moment passes.
async fn no_room(table: &Table) {
    table.drop_one();
    tokio::time::sleep(Duration::from_millis(20)).await;
}

fn begin<S>(site: &Rc<Site>, stream: S, tls: Option<TlsAcceptor>, strict: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let place = site.table.place();
    let (id, state) = (place.id(), Rc::clone(&place.state));
    let task = tokio::task::spawn_local(connection(Rc::clone(site), place, stream, tls, strict));
    site.table.taken(id, &state, task.abort_handle());
}

async fn connection<S>(site: Rc<Site>, place: Place, stream: S, tls: Option<TlsAcceptor>, strict: bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let guarded = Guarded { stream, state: Rc::clone(&place.state) };
    match tls {
        Some(tls) => {
            if let Ok(stream) = tls.accept(guarded).await {
                requests(&site, &place, stream, strict).await;
            }
        }
        None => requests(&site, &place, guarded, strict).await,
    }
}

async fn requests<S>(site: &Rc<Site>, place: &Place, stream: S, strict: bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
        place.state.asked();
        let answer = site.answer(request.method(), request.uri().path(), request.headers(), strict).await;
        place.state.answered();
        Ok::<_, std::convert::Infallible>(answer)
    });
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES).max_headers(HEADERS).half_close(false).pipeline_flush(false);
    // a client that goes away or speaks nonsense is its own matter
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}
