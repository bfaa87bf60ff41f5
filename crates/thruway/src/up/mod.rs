//! `thruway up`, `down` and `way`: the command line's side of the controller.

mod here;
mod init;
mod show;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context as _, bail};
use up::{Direction, Go, Stop, Way, WayFile};

use crate::cli::{DownArgs, Global, GraphWish, UpArgs, WayVerb};
use crate::paint::{Page, Tone, paint};
use crate::{DONE, FOUND, say, warn};

use show::Screen;

pub fn up(global: &Global, args: &UpArgs) -> anyhow::Result<u8> {
    walk(global, args, Direction::Up, &[])
}

pub fn down(global: &Global, args: &DownArgs) -> anyhow::Result<u8> {
    if let Some(machine) = args.leave.iter().find(|machine| !["host", "guest"].contains(&machine.as_str())) {
        bail!("--leave {machine}: say host or guest");
    }
    walk(global, &args.walk, Direction::Down, &args.leave)
}

pub fn way(global: &Global, verb: &WayVerb) -> anyhow::Result<u8> {
    match verb {
        WayVerb::Init(args) => init::init(global, args),
        WayVerb::Plan { file, graph } => {
            let (file, ways) = read(file)?;
            if global.json {
                let nodes = |way: &Way| serde_json::json!({ "way": way.name, "steps": up::outline(way) });
                let report = serde_json::json!({ "schema": 1, "ways": ways.iter().map(nodes).collect::<Vec<_>>() });
                return say(&(serde_json::to_string_pretty(&report)? + "\n")).map(|()| DONE);
            }
            let form = match graph {
                Some(GraphWish::Dot) => up::Form::Dot,
                Some(GraphWish::Mermaid) => up::Form::Mermaid,
                Some(GraphWish::Text) => up::Form::Text,
                None => return say(&outline(&ways)).map(|()| DONE),
            };
            say(&up::draw(&file, &ways, form)).map(|()| DONE)
        }
        WayVerb::Here => here::here(global),
        WayVerb::Hold(args) => here::hold(global, args),
        WayVerb::Release { id } => here::release(global, id),
    }
}

/// A way file, and its hosts' ways.
fn read(path: &Path) -> anyhow::Result<(WayFile, Vec<Way>)> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {}; `thruway way init` makes a way file", path.display()))?;
    let named = |bad: up::Bad| match bad.line {
        Some(line) => anyhow::anyhow!("{}:{line}: {}", path.display(), bad.says.trim_end()),
        None => anyhow::anyhow!("{}: {}", path.display(), bad.says),
    };
    let file = WayFile::read(&text).map_err(named)?;
    let ways = file.ways().map_err(named)?;
    Ok((file, ways))
}

/// The steps in words, before anything is looked at.
fn outline(ways: &[Way]) -> String {
    let mut page = Page::new();
    for way in ways {
        page.line(paint(Tone::Strong, &way.name));
        let mut machine = String::new();
        for node in up::outline(way) {
            let at = if node.machine == node.at { node.at.clone() } else { format!("{}: {}", node.machine, node.at) };
            if at != machine {
                page.hang(2, "", 0, Tone::Plain, &at);
                machine = at;
            }
            let mark = if node.changes { "◆" } else { "◇" };
            page.hang(4, &format!("{mark} {}", node.id), 20, Tone::Plain, &node.says);
        }
        page.gap();
    }
    page.line(paint(Tone::Faint, "◆ may change something, by a plan that is shown first   ◇ looks and proves"));
    page.text()
}

fn walk(global: &Global, wish: &UpArgs, direction: Direction, leave: &[String]) -> anyhow::Result<u8> {
    let path = wish.file.as_path();
    if global.root.is_some() || global.from.is_some() || global.sim.is_some() {
        bail!(
            "the way file names the machines (host.root for one below a directory): --root, --from and --sim choose none"
        );
    }
    let (file, mut ways) = read(path)?;
    let mut fleet = file.fleet.clone();
    if !wish.fleet.hosts.is_empty() {
        let Some(fleet) = &mut fleet else {
            bail!("{} has no [fleet]: --host chooses among its hosts", path.display())
        };
        for host in &wish.fleet.hosts {
            if !fleet.hosts.contains(host) {
                bail!("--host {host}: fleet.hosts of {} does not name it", path.display());
            }
        }
        let chosen = |way: &Way| wish.fleet.hosts.iter().any(|host| way.name == format!("{}/{host}", file.name));
        ways.retain(chosen);
    }
    if let Some(fleet) = &mut fleet {
        fleet.at_once = wish.fleet.at_once.unwrap_or(fleet.at_once).max(1);
        fleet.stop_after = wish.fleet.stop_after.unwrap_or(fleet.stop_after).max(1);
    }
    let screen = Screen::new(global.json, global.verbose, fleet.is_some());
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        // the second ends at once: what stands stands, and the next up goes on from there
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("cannot watch for ctrl-C")?;
    }
    let control = Control::new().context("cannot make a directory for ssh's connections")?;
    let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if fleet.is_some() && !wish.yes && !wish.dry_run {
        if !terminal {
            bail!("there is no terminal to ask on: say --yes to go ahead, or --dry-run to only look");
        }
        say(&outline(&ways[..1]))?;
        let names: Vec<&str> = ways.iter().filter_map(|way| way.name.rsplit('/').next()).collect();
        let what = if direction == Direction::Up { "Walk this way up" } else { "Take this way back" };
        if !crate::change::agreed(false, &format!("{what} on {} hosts ({})?", ways.len(), names.join(", ")))? {
            warn("Nothing was changed.")?;
            return Ok(DONE);
        }
    } else if !wish.yes && !wish.dry_run && !terminal {
        bail!("there is no terminal to ask on: say --yes to go ahead, or --dry-run to only look");
    }
    let ask = |question: &str| {
        screen.settle();
        crate::change::agreed(false, question).unwrap_or(false)
    };
    let password = |at: &str| {
        screen.settle();
        if terminal { secret(&format!("sudo's password on {at} (kept in memory alone): ")) } else { None }
    };
    let tell = |event: &up::Event| screen.tell(event);
    let go = Go {
        yes: wish.yes || fleet.is_some(),
        dry_run: wish.dry_run,
        take_over: wish.take_over,
        leave: leave.to_vec(),
        program: std::env::current_exe().context("cannot find this program's own file")?,
        base: base(wish.fleet.state.as_deref())?,
        control: control.0.clone(),
        who: who(),
        controller: controller(),
        terminal,
        stop,
        ask: &ask,
        password: &password,
        tell: &tell,
    };
    let begun = Instant::now();
    let Some(fleet) = fleet else {
        if !global.json && direction == Direction::Up {
            say(&outline(&ways))?;
        }
        let ended = up::walk(&ways[0], direction, &go);
        screen.settle();
        return ended_one(global, &ways[0], &go, direction, ended, begun.elapsed().as_secs_f64());
    };
    let report = up::walk_fleet(&ways, &fleet, direction, &go);
    let seconds = begun.elapsed().as_secs_f64();
    if global.json {
        say(&(serde_json::json!({ "schema": 1, "event": "report", "hosts": report.hosts, "seconds": seconds })
            .to_string()
            + "\n"))?;
    } else {
        say(&show::report(&report, seconds))?;
    }
    Ok(if report.well() { DONE } else { FOUND })
}

fn ended_one(
    global: &Global,
    way: &Way,
    go: &Go<'_>,
    direction: Direction,
    ended: Result<String, Stop>,
    seconds: f64,
) -> anyhow::Result<u8> {
    let log = go.base.join(&way.name).join("log");
    let mut page = Page::new();
    page.gap();
    let status = match ended {
        Ok(says) => {
            page.line(format!(
                "{} {}: {says}, in {seconds:.1} s.",
                paint(Tone::Good, "●"),
                paint(Tone::Strong, &way.name)
            ));
            if direction == Direction::Up && !go.dry_run {
                page.line(format!("  Take it back with: {}", paint(Tone::Code, "thruway down")));
            }
            DONE
        }
        Err(Stop::State(error)) => return Err(error.into()),
        Err(stop) => {
            let (tone, mark) = if matches!(stop, Stop::Failed { .. }) { (Tone::Bad, "✗") } else { (Tone::Warn, "!") };
            page.hang(0, mark, 2, tone, &stop.to_string());
            let again = if direction == Direction::Up { "up" } else { "down" };
            page.hang(
                2,
                "",
                0,
                Tone::Faint,
                &format!("what was done before stands; `thruway {again}` goes on from there; log: {}", log.display()),
            );
            FOUND
        }
    };
    if !global.json {
        say(&page.text())?;
    }
    Ok(status)
}

/// Where states are kept, as the XDG base directory specification has it.
fn base(wish: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(dir) = wish {
        return std::path::absolute(dir).with_context(|| format!("cannot find {}", dir.display()));
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    Ok(base.context("neither HOME nor XDG_STATE_HOME is set: name a directory with --state")?.join("thruway/up"))
}

/// This person, as another's refusal names him.
fn who() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let user = user.unwrap_or_else(|_| rustix::process::getuid().as_raw().to_string());
    format!("{user}@{}", host.trim())
}

/// This user of this machine, as no other has it; the machine's id itself is nobody's business.
fn controller() -> String {
    let id = std::fs::read_to_string("/etc/machine-id")
        .or_else(|_| std::fs::read_to_string("/proc/sys/kernel/random/boot_id"))
        .unwrap_or_default();
    let text = format!("thruway up {} {}", id.trim(), rustix::process::getuid().as_raw());
    model::Digest::of(text.as_bytes()).0.chars().take(16).collect()
}

/// Reads a line without showing it.
fn secret(question: &str) -> Option<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).ok()?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    write!(anstream::stderr(), "{question}").ok()?;
    std::io::stderr().flush().ok()?;
    tcsetattr(&stdin, OptionalActions::Flush, &quiet).ok()?;
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    let _ = tcsetattr(&stdin, OptionalActions::Flush, &before);
    let _ = writeln!(anstream::stderr());
    read.ok()?;
    Some(line.trim_end_matches(['\n', '\r']).to_owned()).filter(|line| !line.is_empty())
}

/// A directory of this user's alone, with a short name: a socket's path has little room.
struct Control(PathBuf);

impl Control {
    fn new() -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let name = format!("thruway-{}", up::random()?);
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
        let dir = runtime.unwrap_or_else(std::env::temp_dir).join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Control(dir))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
