//! `thruway app prove`: finds or starts a transcode, watches it for some seconds, and says whether it uses the card.

mod film;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use app::prove::{
    CardCan, Half, Look, Proof, Told, Verdict, Watched, asked, cpu_ticks, judge, libraries, nodes, told, words,
};
use film::Film;
use gpu::attribution::{Attribution, Attributor, Engine, OwnedBy};
use gpu::{Inventory, engines};
use machine::{Kind, Machine, MachineExt as _};
use model::{Evidence, Reason, Seen};
use serde_json::json;
use watch::{CardNow, Sample, Sampler};

use crate::cli::{Global, ProveArgs};
use crate::paint::{Page, Tone, paint};
use crate::target::Target;
use crate::{BLIND, DONE, FOUND, say, warn};

const SCHEMA: u32 = 1;
const COLUMN: usize = 10;
/// The card's own measure of a process covers some tenths of a second.
const BETWEEN: Duration = Duration::from_millis(400);
/// A film that was started may take so much longer than it is watched: a slow CPU makes it.
const PATIENCE: Duration = Duration::from_secs(90);
/// Ticks a second of /proc/PID/stat: USER_HZ, 100 on every Linux that runs a GPU (proc_pid_stat(5)).
const TICKS: f64 = 100.0;

/// 0 all as well as the card can, 1 one is not, 2 nothing to watch or it could not be told.
pub fn prove(global: &Global, args: &ProveArgs) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let machine = target.machine();
    if args.start && machine.kind() != Kind::Live {
        bail!("--start runs the app's own ffmpeg on this machine: --root, --from and --sim choose none");
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot watch for ctrl-C")?;
    }
    let inventory = gpu::observe(machine);
    let mut sampler = Sampler::open(machine);
    let mut attributor = Attributor::new();
    let first = sampler.sample(machine);
    if first.blind {
        return unseen(
            global,
            "this looks from inside a container, where the card's processes have no numbers: ask on the machine itself",
        );
    }
    let all = processes(machine, &mut attributor);
    let found = if args.start { Vec::new() } else { chosen(machine, args, &first, &all) };
    if found.is_empty() && !args.start {
        return unseen(global, &nothing(args, &all));
    }
    let (codecs, _) = engines::observe(machine, &inventory);
    let film = match args.start {
        true => {
            let inside = place(args, &all)?;
            let encodes = card_by(&codecs, &inventory, None).is_some_and(|card| card.encodes == Seen::Is(true));
            Some(Film::start(&inside, args.ffmpeg.as_deref(), encodes, args.span)?)
        }
        false => None,
    };
    let pids = match &film {
        // none where it ended before it was seen: its log says why
        Some(film) => film.pid(machine, &stop).into_iter().collect(),
        None => found,
    };
    let watch = watched(machine, &mut sampler, &pids, args, film.as_ref(), &stop);
    let film = film.map(Film::end);
    let owners: BTreeMap<u32, Attribution> = match film {
        // it may have ended by now
        Some(_) => watch.owners,
        None => attributor.look(machine, &pids).into_iter().map(|it| (it.pid, it)).collect(),
    };
    let mut seen = watch.processes;
    if seen.is_empty() {
        seen.push(Watched { words: Seen::Absent, ..blank(0) });
    }
    for one in &mut seen {
        one.card = card_by(&codecs, &inventory, watch.on.get(&one.pid).copied());
        match &film {
            Some(film) => {
                one.words = Seen::Is(film.words.clone());
                one.log = Some((film.name.clone(), told(&film.log)));
            }
            None => one.log = log(machine, args, one),
        }
    }
    let mut proofs: Vec<Proof> = seen.iter().map(judge).collect();
    if let (Some(film), Some(proof)) = (&film, proofs.first_mut()) {
        film.hold(proof);
    }
    let unknown = |proof: &&Proof| proof.verdict == Verdict::Unknown;
    let status = match proofs.iter().filter(|proof| !proof.pass).count() {
        0 => DONE,
        failed if failed == proofs.iter().filter(unknown).count() => BLIND,
        _ => FOUND,
    };
    if global.json {
        let report = json!({
            "schema": SCHEMA,
            "machine": target.name(global),
            "simulated": first.simulated,
            "processes": proofs.iter().map(|proof| json!({
                "proof": proof, "whose": owners.get(&proof.pid),
            })).collect::<Vec<_>>(),
        });
        say(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        say(&page(&proofs, &owners, first.simulated))?;
    }
    Ok(status)
}

/// Nothing to judge: why, and what to do.
fn unseen(global: &Global, why: &str) -> anyhow::Result<u8> {
    if global.json {
        let report = json!({ "schema": SCHEMA, "processes": [], "why": why });
        say(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        warn(why)?;
    }
    Ok(BLIND)
}

fn nothing(args: &ProveArgs, all: &[Attribution]) -> String {
    let start = "play something that must be transcoded (another resolution in the player), or use --start";
    match (args.pod.as_deref().or(args.container.as_deref()), args.pid) {
        (_, Some(pid)) => format!("no process {pid} is here"),
        (Some(name), _) => match all.iter().filter(|it| is_in(args, it)).count() {
            0 => format!("no process of {name} is on this machine; `thruway top --once` and the engine list what is"),
            count => format!("{name} has {count} processes here, and none of them transcodes or is on a card: {start}"),
        },
        _ => format!("no ffmpeg runs here, and no process is on a card: {start}"),
    }
}

fn processes(machine: &dyn Machine, attributor: &mut Attributor) -> Vec<Attribution> {
    let pids: Vec<u32> = machine.names("/proc").iter().filter_map(|name| name.parse().ok()).collect();
    attributor.look(machine, &pids)
}

/// Whether a process is of the pod or container that is asked for.
fn is_in(args: &ProveArgs, it: &Attribution) -> bool {
    if let Some(wanted) = &args.pod {
        return match &it.owner {
            OwnedBy::Pod { namespace, pod: Some(pod), .. } => match wanted.split_once('/') {
                Some((space, name)) => namespace.as_deref() == Some(space) && pod == name,
                None => pod == wanted,
            },
            _ => false,
        };
    }
    let Some(wanted) = &args.container else { return false };
    let is =
        |id: &str, name: Option<&str>| name == Some(wanted) || (wanted.len() >= 4 && id.starts_with(wanted.as_str()));
    match &it.owner {
        OwnedBy::Container { id, name, .. } => is(id, name.as_deref()),
        OwnedBy::Pod { id, container, .. } => is(id.as_deref().unwrap_or_default(), container.as_deref()),
        OwnedBy::System { name, title } => name == wanted || title.as_ref() == Some(wanted),
        _ => false,
    }
}

/// Transcodes where there are any; else what is on a card.
fn chosen(machine: &dyn Machine, args: &ProveArgs, first: &Sample, all: &[Attribution]) -> Vec<u32> {
    if let Some(pid) = args.pid {
        return if machine.exists(&format!("/proc/{pid}")) { vec![pid] } else { Vec::new() };
    }
    let named = args.pod.is_some() || args.container.is_some();
    let of = |it: &&Attribution| !named || is_in(args, it);
    let films = all.iter().filter(of).filter(|it| it.command.get().is_some_and(|name| name.starts_with("ffmpeg")));
    let films: Vec<u32> = films.map(|it| it.pid).collect();
    if !films.is_empty() {
        return films;
    }
    let on_cards = first.cards.iter().filter_map(|card| card.processes.get()).flatten();
    let mut pids: Vec<u32> = on_cards.filter(|it| !named || is_in(args, &it.whose)).map(|it| it.process.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Where --start runs its film.
fn place(args: &ProveArgs, all: &[Attribution]) -> anyhow::Result<film::Inside> {
    let Some(name) = args.pod.as_ref().or(args.container.as_ref()) else { return Ok(film::Inside::Here) };
    let owner = all.iter().find(|it| is_in(args, it)).map(|it| &it.owner);
    match owner {
        Some(OwnedBy::Container { engine: Engine::Docker, id, .. }) => Ok(film::Inside::Docker(id.clone())),
        Some(OwnedBy::Container { engine: Engine::Podman, id, user, .. }) => match user {
            None | Some(0) => Ok(film::Inside::Podman(id.clone())),
            Some(user) => bail!("{name} is a container of user {user}: run this as that user"),
        },
        Some(OwnedBy::Pod { namespace: Some(space), pod: Some(pod), container, .. }) => {
            Ok(film::Inside::Pod { namespace: space.clone(), pod: pod.clone(), container: container.clone() })
        }
        Some(_) => bail!(
            "a film can be started in containers of docker and podman, in pods, and on this machine: not in {name}"
        ),
        None => bail!("no process of {name} is on this machine"),
    }
}

struct Watching {
    processes: Vec<Watched>,
    /// The card that each process was seen on, by its address.
    on: BTreeMap<u32, model::Bdf>,
    owners: BTreeMap<u32, Attribution>,
}

fn blank(pid: u32) -> Watched {
    Watched {
        pid,
        words: Seen::Absent,
        libraries: Seen::Absent,
        nodes: Seen::Absent,
        looks: Vec::new(),
        unasked: None,
        cores: Seen::Absent,
        log: None,
        card: None,
    }
}

/// Looks again and again until the time is over, or the film.
fn watched(
    machine: &dyn Machine,
    sampler: &mut Sampler,
    pids: &[u32],
    args: &ProveArgs,
    film: Option<&Film>,
    stop: &AtomicBool,
) -> Watching {
    let mut all: Vec<Watched> = pids.iter().map(|pid| Watched { words: words(machine, *pid), ..blank(*pid) }).collect();
    let begun = Instant::now();
    let ticks: Vec<Seen<u64>> = pids.iter().map(|pid| cpu_ticks(machine, *pid)).collect();
    let mut last: Vec<(Seen<u64>, Duration)> = ticks.iter().map(|ticks| (ticks.clone(), Duration::ZERO)).collect();
    let (mut on, mut owners) = (BTreeMap::new(), BTreeMap::new());
    // What answers the same each time needs no waiting.
    let live = machine.kind() == Kind::Live;
    let limit = if film.is_some() { args.span + PATIENCE } else { args.span };
    loop {
        let sample = sampler.sample(machine);
        let unasked = match &sample.driver {
            Seen::Is(_) => None,
            Seen::Absent => Some("no NVIDIA driver runs here".to_owned()),
            Seen::Unreadable(reason) => Some(format!("NVML could not be asked: {reason}")),
        };
        for (one, last) in all.iter_mut().zip(&mut last) {
            let now = cpu_ticks(machine, one.pid);
            if now.is_there() {
                *last = (now, begun.elapsed());
            }
            one.libraries = match (libraries(machine, one.pid), &one.libraries) {
                (Seen::Is(now), Seen::Is(before)) => Seen::Is(now.with(*before)),
                (Seen::Absent, _) => one.libraries.clone(),
                (now, _) => now,
            };
            let open = nodes(machine, one.pid);
            if open.get().is_some_and(|open| !open.is_empty()) || !one.nodes.is_there() {
                one.nodes = open;
            }
            match &unasked {
                Some(why) => one.unasked = Some(why.clone()),
                None => {
                    let (look, whose) = look(&sample, one.pid, one.nodes.get());
                    if let Some((bdf, whose)) = whose {
                        on.insert(one.pid, bdf);
                        owners.entry(one.pid).or_insert(whose);
                    }
                    one.looks.push(look);
                }
            }
        }
        let looks = all.first().map_or(0, |one| one.looks.len());
        let over = match film {
            Some(film) => film.ended(),
            None => begun.elapsed() >= args.span || (!live && looks > 1) || (unasked.is_some() && !live),
        };
        if over || begun.elapsed() >= limit || stop.load(Ordering::Relaxed) || all.is_empty() {
            break;
        }
        if live {
            std::thread::sleep(BETWEEN.min(args.span));
        }
    }
    for ((one, first), (last, took)) in all.iter_mut().zip(&ticks).zip(&last) {
        if let (Seen::Is(first), Seen::Is(last), true) = (first, last, took.as_millis() >= 200) {
            one.cores = Seen::Is(last.saturating_sub(*first) as f64 / TICKS / took.as_secs_f64());
        }
    }
    let known: Vec<u32> = pids.iter().copied().filter(|pid| !owners.contains_key(pid)).collect();
    owners.extend(Attributor::new().look(machine, &known).into_iter().map(|it| (it.pid, it)));
    Watching { processes: all, on, owners }
}

/// A process in one sample: on the card that lists it, else on the one whose node it has open.
fn look(sample: &Sample, pid: u32, open: Option<&Vec<String>>) -> (Look, Option<(model::Bdf, Attribution)>) {
    let of = |card: &CardNow| card.processes.get().and_then(|all| all.iter().find(|it| it.process.pid == pid).cloned());
    let listed = sample.cards.iter().find_map(|card| Some((card, of(card)?)));
    let session = |card: &CardNow| {
        let sessions = card.gpu.engines.get().and_then(|engines| engines.sessions.get().cloned());
        sessions.into_iter().flatten().find(|session| session.pid == pid)
    };
    if let Some((card, it)) = listed {
        let look = Look {
            there: true,
            memory: it.process.memory,
            sm: it.process.sm,
            encoder: it.process.encoder,
            decoder: it.process.decoder,
            card_encoder: card.gpu.utilization_encoder.clone(),
            card_decoder: card.gpu.utilization_decoder.clone(),
            session: session(card),
        };
        return (look, card.bdf.map(|bdf| (bdf, it.whose)));
    }
    let node = |card: &&CardNow| {
        let name = card.gpu.minor.get().map(|minor| format!("/dev/nvidia{minor}"));
        name.is_some_and(|name| open.is_some_and(|open| open.contains(&name)))
    };
    let single = || sample.cards.first().filter(|_| sample.cards.len() == 1);
    let Some(card) = sample.cards.iter().find(node).or_else(single) else { return (Look::default(), None) };
    let look = Look {
        session: session(card),
        card_encoder: card.gpu.utilization_encoder.clone(),
        card_decoder: card.gpu.utilization_decoder.clone(),
        ..Look::default()
    };
    (look, None)
}

/// What the card can do that a process is on; where it is on none, the only card of NVIDIA's driver.
fn card_by(all: &[engines::Engines], inventory: &Inventory, bdf: Option<model::Bdf>) -> Option<CardCan> {
    let driven = |one: &&engines::Engines| {
        inventory.card(one.bdf).is_some_and(|card| card.driver.get().is_some_and(|driver| driver == "nvidia"))
    };
    let one = match bdf {
        Some(bdf) => all.iter().find(|one| one.bdf.same_slot(&bdf))?,
        None => all.iter().find(driven)?,
    };
    let (encodes, source) = match (&one.asked, &one.table) {
        (Seen::Is(asked), _) if !matches!(asked.encodes, Seen::Unreadable(_)) => {
            let has = asked.encodes.get().is_some_and(|caps| !caps.is_empty());
            (Seen::Is(has), "asked of the card".to_owned())
        }
        (_, Some(table)) => (Seen::Is(table.nvenc > 0), table.source.clone()),
        _ => (Seen::Unreadable(Reason::Other("its chip is not in the table".into())), "no answer".into()),
    };
    Some(CardCan { name: one.name.clone(), encodes, source })
}

/// The log that tells of this very transcode: the one that was named, else Jellyfin's newest that names the same input.
fn log(machine: &dyn Machine, args: &ProveArgs, one: &Watched) -> Option<(String, Told)> {
    if let Some(path) = &args.log {
        #[allow(clippy::disallowed_methods, reason = "a file that the user names")]
        let text = std::fs::read(path).ok()?;
        return Some((path.display().to_string(), told(&String::from_utf8_lossy(&text))));
    }
    let input = asked(one.words.get()?)?.input?;
    let file = machine.link(&format!("/proc/{}/fd/2", one.pid)).is().filter(|path| path.ends_with(".log"));
    if let Some(text) = file.as_ref().and_then(|path| machine.text(&format!("/proc/{}/root{path}", one.pid)).is()) {
        return Some((file.unwrap_or_default(), told(&text)));
    }
    let root = format!("/proc/{}/root", one.pid);
    let places = ["/config/log", "/var/log/jellyfin", "/var/lib/jellyfin/log", "/jellyfin/log"];
    let dirs =
        places.iter().map(|place| format!("{root}{place}")).chain(places.iter().map(|place| (*place).to_owned()));
    let mut logs: Vec<(String, String)> = Vec::new();
    for dir in dirs {
        let names =
            machine.names(&dir).into_iter().filter(|name| name.starts_with("FFmpeg.") && name.ends_with(".log"));
        logs.extend(names.map(|name| (name, dir.clone())));
    }
    // the names end with times: "FFmpeg.Transcode-2026-11-26_12-00-00_…"
    let time = |name: &str| name.split_once('-').map(|(_, rest)| rest.to_owned());
    logs.sort_by_key(|(name, _)| std::cmp::Reverse(time(name)));
    logs.into_iter().take(8).find_map(|(name, dir)| {
        let text = machine.text(&format!("{dir}/{name}")).is()?;
        let path = format!("{}/{name}", dir.strip_prefix(&root).unwrap_or(&dir));
        text.contains(&input).then(|| (path, told(&text)))
    })
}

/// From the process to the app, the innermost first.
fn whose(it: &Attribution) -> String {
    let engine = |engine: &Engine, id: &str| format!("{} {}", engine.name(), gpu::attribution::short(id));
    let mut parts = Vec::new();
    match &it.owner {
        OwnedBy::Container { engine: by, id, name, image, .. } => {
            parts.push(match name {
                Some(name) => format!("container {name} ({})", engine(by, id)),
                None => format!("container {}", engine(by, id)),
            });
            parts.extend(image.as_ref().map(|image| format!("image {image}")));
        }
        OwnedBy::Pod { namespace, pod, uid, container, id } => {
            let id = id.as_deref().map(|id| format!(" ({})", gpu::attribution::short(id))).unwrap_or_default();
            parts.extend(container.as_ref().map(|name| format!("container {name}{id}")));
            parts.push(match (namespace, pod) {
                (Some(space), Some(pod)) => format!("pod {space}/{pod}"),
                _ => format!("pod with UID {uid}"),
            });
        }
        OwnedBy::Process => parts.push("a process of this machine".into()),
        other => parts.push(other.label()),
    }
    parts.extend(it.app.as_ref().map(|app| format!("app {app}")));
    parts.join(", ")
}

fn page(proofs: &[Proof], owners: &BTreeMap<u32, Attribution>, simulated: bool) -> String {
    let mut page = Page::new();
    for proof in proofs {
        page.gap();
        let tone = match (proof.pass, proof.verdict) {
            (true, _) => Tone::Good,
            (false, Verdict::Unknown) => Tone::Warn,
            (false, _) => Tone::Bad,
        };
        let simulated = if simulated { paint(Tone::Warn, "  (simulated)") } else { String::new() };
        page.line(format!("{}{simulated}", paint(tone, &format!("{}: {}", proof.verdict.word(), proof.says))));
        if let Some(owner) = owners.get(&proof.pid) {
            page.hang(2, "whose", COLUMN, Tone::Plain, &whose(owner));
        }
        for (label, half) in [("decodes", &proof.decode), ("encodes", &proof.encode)] {
            let (place, why) = match half {
                Half::Card(why) => ("the card", why),
                Half::Cpu(why) => ("the CPU", why),
                Half::None(why) => ("nobody", why),
                Half::Unknown(why) => ("unknown", why),
            };
            page.hang(2, label, COLUMN, Tone::Plain, &format!("{place}: {why}"));
        }
        for (n, Evidence { source, value }) in proof.evidence.iter().enumerate() {
            let label = if n == 0 { "seen" } else { "" };
            page.hang(2, label, COLUMN, Tone::Faint, &format!("{source}: {value}"));
        }
        for (n, fix) in proof.fixes.iter().enumerate() {
            page.whole(2, if n == 0 { "fix" } else { "" }, COLUMN, Tone::Code, fix);
        }
    }
    page.text()
}
