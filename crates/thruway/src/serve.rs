//! `thruway serve`: the exporter and the page over this machine; the doctor walks its way in the background.

use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};
use machine::{Kind, MachineExt as _, lean};
use watch::Sampler;
use watch::serve::chain::{Chain, Floor, Promise};
use watch::serve::{HostLabel, Listen, Names, Options, Pem, Server};

use crate::cli::{Global, HostWish, ServeArgs};
use crate::target::Target;
use crate::way::Way;
use crate::{DONE, doctor, say, warn};

pub fn serve(global: &Global, args: &ServeArgs) -> anyhow::Result<u8> {
    lean::one_heap();
    lean::keep();
    let signals = Signals::new()?;
    let target = Arc::new(Target::open(global)?);
    let host = target.machine().value("/proc/sys/kernel/hostname").is();
    let name = match (&host, target.machine().kind()) {
        (Some(host), Kind::Live) => host.clone(),
        _ => target.name(global),
    };
    let options = options(args, host.unwrap_or_else(|| name.clone()))?;
    clear_sockets(&options)?;
    let looking = Arc::clone(&target);
    let mut sampler = None;
    let sample = move || sampler.get_or_insert_with(|| Sampler::open(looking.machine())).sample(looking.machine());
    let server = Server::start(options.clone(), sample, move || chain(&target, &name)).map_err(anyhow::Error::msg)?;
    // whoever reads the first line alone has gone by the second
    let _ = announce(global, &options, &server);
    while signals.next() {
        match pem(args).and_then(|pem| pem.map_or(Ok(()), |pem| server.renew(&pem).map_err(anyhow::Error::msg))) {
            Ok(()) if args.tls_cert.is_some() => warn("the certificate was read again")?,
            Ok(()) => {}
            Err(error) => warn(&format!("the old certificate stays: {}", crate::chain(&error)))?,
        }
    }
    server.stop();
    for listen in &options.listen {
        if let Listen::Unix(path) = listen {
            let _ = std::fs::remove_file(path);
        }
    }
    Ok(DONE)
}

fn options(args: &ServeArgs, host: String) -> anyhow::Result<Options> {
    let defaults = Options::default();
    let names: Vec<Names> = args.names.iter().map(|names| names.names()).collect();
    Ok(Options {
        listen: if args.listen.is_empty() { defaults.listen } else { args.listen.clone() },
        tls: pem(args)?,
        token: args.token_file.as_deref().map(token).transpose()?,
        behind_proxy: args.behind_proxy,
        hosts: args.host.clone(),
        fresh: args.fresh,
        every: args.every,
        doctor_every: args.doctor_every,
        patience: args.patience,
        names: if names.is_empty() { defaults.names } else { names },
        dcgm_host: match args.dcgm_hostname {
            HostWish::Upper => HostLabel::Upper,
            HostWish::Lower => HostLabel::Lower,
        },
        most: args.max_series,
        // a pod's own name is not its node's
        host: std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty()).unwrap_or(host),
    })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn pem(args: &ServeArgs) -> anyhow::Result<Option<Pem>> {
    match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Ok(Some(Pem { certificate: read(certificate)?, key: read(key)? })),
        _ => Ok(None),
    }
}

fn token(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = read(path)?;
    let open = std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o004 != 0);
    if open {
        warn(&format!("everybody on this machine can read the token in {0}: chmod 600 {0}", path.display()))?;
    }
    Ok(bytes.trim_ascii().to_vec())
}

/// A socket that nobody listens on any more is in the way of a new one.
fn clear_sockets(options: &Options) -> anyhow::Result<()> {
    for listen in &options.listen {
        let Listen::Unix(path) = listen else { continue };
        let Ok(meta) = std::fs::symlink_metadata(path) else { continue };
        if !meta.file_type().is_socket() {
            bail!("{} is there and is no socket", path.display());
        }
        if UnixStream::connect(path).is_ok() {
            bail!("somebody listens on {} already", path.display());
        }
        std::fs::remove_file(path).with_context(|| format!("cannot take {} away", path.display()))?;
    }
    Ok(())
}

fn announce(global: &Global, options: &Options, server: &Server) -> anyhow::Result<()> {
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let tcp = server.addresses.iter().map(|address| format!("{scheme}://{address}/"));
    let unix = options.listen.iter().filter_map(|listen| match listen {
        Listen::Unix(path) => Some(format!("unix:{}", path.display())),
        Listen::Tcp(_) => None,
    });
    let all: Vec<String> = tcp.chain(unix).collect();
    if global.json {
        return say(&(serde_json::json!({ "schema": 1, "addresses": all }).to_string() + "\n"));
    }
    all.iter().try_for_each(|address| say(&format!("{address}\n")))?;
    say("/ is the page, /metrics is for Prometheus; Ctrl-C ends it\n")
}

/// The way as the doctor sees it now.
fn chain(target: &Target, name: &str) -> Chain {
    let way = Way::observe(target.machine());
    let floors = doctor::Report::new(&way, name.to_owned(), target.machine().kind(), None).floors();
    let promises = way.ledger.promises.iter().map(|written| &written.promise);
    let promises = promises.map(|promise| Promise { bdf: promise.gpu.bdf, to: promise.to.to_string() }).collect();
    let floors = floors.map(|(layer, presence, state, findings)| Floor { layer, presence, state, findings }).collect();
    Chain { machine: name.to_owned(), floors, promises }
}

/// The signals that end it, and the one that has it read its certificate again.
struct Signals {
    wake: UnixStream,
    end: Arc<AtomicBool>,
}

impl Signals {
    fn new() -> anyhow::Result<Signals> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let (wake, woken) = UnixStream::pair().context("cannot wait for signals")?;
        let end = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&end)).context("cannot wait for signals")?;
        }
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let woken = woken.try_clone().context("cannot wait for signals")?;
            signal_hook::low_level::pipe::register(signal, woken).context("cannot wait for signals")?;
        }
        Ok(Signals { wake, end })
    }

    /// Waits; true: certificates are to be read again, false: it is to end.
    fn next(&self) -> bool {
        let read = (&self.wake).read(&mut [0; 64]);
        !self.end.load(Ordering::Relaxed) && read.is_ok_and(|count| count > 0)
    }
}
