//! `thruway demo`: plays a scene. A scene is a script of the very command lines a user types, run by the same code
//! over simulated machines, with the boots and starts between them.
//!
//! ```text
//! = A heading
//! # prose, shown to the reader
//! machine host seed-host        lay the box seed-host out and call it "host"
//! host$ thruway doctor          run a command line on it; its exit status is shown when it is not 0
//! @ boot host                   what happens to the machines meanwhile (see `Stage::event`)
//! ```

mod agent;
mod inside;

use std::collections::BTreeMap;
use std::io::{BufRead as _, IsTerminal as _};

use anyhow::{Context as _, bail};
use clap::Parser as _;
use machine::scratch::Scratch;
use machine::{Machine, MachineExt as _, Root};
use model::{Digest, Seen};

use crate::cli::{Cli, DemoArgs, Global};
use crate::paint::{Page, Tone, paint, tame, wrap};
use crate::{DONE, say};
use inside::Inside;

/// The whole way of the homelab that thruway was made for.
const SEED: &str = include_str!("scenes/seed.scene");

pub fn demo(global: &Global, args: &DemoArgs) -> anyhow::Result<u8> {
    if args.list {
        let mut page = Page::new();
        for name in sim::names() {
            page.hang(0, name, 28, Tone::Plain, &sim::Box::own(name)?.title);
        }
        return say(&page.text()).map(|()| DONE);
    }
    if let Some([name, dir]) = args.build.as_deref() {
        let scratch = Scratch::at(dir.as_ref()).with_context(|| format!("cannot lay out {dir}"))?;
        sim::build_named(name, &scratch)?;
        say(&format!("The simulated machine {name} is laid out. Look at it with: thruway --root {dir} doctor\n"))?;
        return Ok(DONE);
    }
    if let Some(event) = &args.event {
        let mut stage = Stage { global, step: false, machines: BTreeMap::new(), remembered: BTreeMap::new() };
        for dir in event.iter().filter(|word| std::path::Path::new(word).is_dir()) {
            let tree = Scratch::again(dir.as_ref()).with_context(|| format!("{dir} is no simulated machine"))?;
            stage.machines.insert(dir.clone(), tree);
        }
        return stage.event(&event.join(" ")).map(|()| DONE);
    }
    let (name, text) = match &args.script {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            (path.display().to_string(), text)
        }
        None => ("the built-in scene".to_owned(), SEED.to_owned()),
    };
    let mut stage = Stage { global, step: args.step, machines: BTreeMap::new(), remembered: BTreeMap::new() };
    for (number, line) in text.lines().enumerate() {
        stage.play(line).with_context(|| format!("{name}, line {}: {line}", number + 1))?;
    }
    Ok(DONE)
}

struct Stage<'g> {
    global: &'g Global,
    step: bool,
    machines: BTreeMap<String, Scratch>,
    /// Fingerprints taken by `@ remember`, for `@ same`.
    remembered: BTreeMap<String, BTreeMap<String, Digest>>,
}

impl Stage<'_> {
    fn play(&mut self, line: &str) -> anyhow::Result<()> {
        let line = line.trim_end();
        if let Some(heading) = line.strip_prefix("= ") {
            let rule = "─".repeat(heading.chars().count() + 12);
            return say(&format!(
                "{}\n{}\n\n",
                paint(Tone::Strong, &format!("{heading} (simulated)")),
                paint(Tone::Faint, &rule)
            ));
        }
        if let Some(prose) = line.strip_prefix("# ") {
            return wrap(prose, 98).iter().try_for_each(|line| say(&format!("{}\n", paint(Tone::Faint, line))));
        }
        if let Some(event) = line.strip_prefix("@ ") {
            return self.event(event);
        }
        if let Some(rest) = line.strip_prefix("machine ") {
            let [name, made_of] = words(rest)?;
            let scratch = Scratch::temporary()?;
            sim::build_named(made_of, &scratch)?;
            self.machines.insert(name.to_owned(), scratch);
            return Ok(());
        }
        match line.split_once("$ ") {
            Some((name, command)) => self.command(name, command),
            None if line.is_empty() => say("\n"),
            None => bail!("this is no line of a scene"),
        }
    }

    fn command(&self, name: &str, command: &str) -> anyhow::Result<()> {
        let scratch = self.machine(name)?;
        self.wait()?;
        say(&format!("{}{}\n\n", paint(Tone::Faint, &format!("{name}$ ")), paint(Tone::Code, command)))?;
        let mut cli = Cli::try_parse_from(command.split_whitespace())?;
        cli.global.root = Some(scratch.path().to_owned());
        cli.global.label = Some(name.to_owned());
        cli.global.color = self.global.color;
        let status = crate::run(cli)?;
        if status != DONE {
            say(&paint(Tone::Faint, &format!("[exit status {status}]\n")).replace("\\n", "\n"))?;
        }
        say("\n")
    }

    fn event(&mut self, event: &str) -> anyhow::Result<()> {
        let (verb, rest) = event.split_once(' ').unwrap_or((event, ""));
        let said = match verb {
            "boot" => {
                let [name] = words(rest)?;
                sim::physics::boot(self.machine(name)?.path())?;
                format!("{name} reboots")
            }
            "start" => {
                let [host, vmid, guest] = words(rest)?;
                let vm = sim::physics::start_vm(self.machine(host)?.path(), vmid.parse()?)?;
                sim::physics::plug_into(self.machine(guest)?.path(), &vm)?;
                format!("VM {vmid} starts on {host}; {guest} boots inside it")
            }
            "stop" => {
                let [host, vmid] = words(rest)?;
                sim::physics::stop_vm(self.machine(host)?.path(), vmid.parse()?)?;
                format!("VM {vmid} stops on {host}")
            }
            "apt" => {
                let (name, packages) = rest.split_once(' ').unwrap_or((rest, ""));
                let packages: Vec<&str> = packages.split_whitespace().collect();
                sim::physics::install_packages(self.machine(name)?.path(), &packages)?;
                format!("{} installed on {name}, as advised", packages.join(", "))
            }
            "install" => {
                let [name, version] = words(rest)?;
                sim::physics::install_driver(self.machine(name)?.path(), version)?;
                format!("NVIDIA's driver {version} is installed on {name}, as advised")
            }
            "film" => {
                let [name] = words(rest)?;
                sim::physics::play_film(self.machine(name)?.path())?;
                format!("a film plays on {name}")
            }
            "agent" => {
                let [name] = words(rest)?;
                let page = agent::page(&Root::tree(self.machine(name)?.path())?)?;
                say(&format!(
                    "{}\n{page}\n",
                    paint(Tone::Warn, &format!("» what {name}'s agent tells a kubelet (simulated)"))
                ))?;
                return self.wait();
            }
            "inside" => {
                let [name] = words(rest)?;
                self.inside(name)?;
                return self.wait();
            }
            "remember" => {
                let [name] = words(rest)?;
                let print = fingerprint(&Root::tree(self.machine(name)?.path())?);
                self.remembered.insert(name.to_owned(), print);
                return Ok(());
            }
            "same" => {
                let [name] = words(rest)?;
                let now = fingerprint(&Root::tree(self.machine(name)?.path())?);
                let Some(before) = self.remembered.get(name) else { bail!("{name} was not remembered") };
                let keys: std::collections::BTreeSet<&String> = before.keys().chain(now.keys()).collect();
                let differ: Vec<&str> =
                    keys.into_iter().filter(|path| before.get(*path) != now.get(*path)).map(String::as_str).collect();
                if !differ.is_empty() {
                    bail!("{name} is not as it was: {}", differ.join(", "));
                }
                format!("{name}: {} files compared, every byte as before the first change", now.len())
            }
            _ => bail!("no such event"),
        };
        self.wait()?;
        say(&format!("{}\n\n", paint(Tone::Warn, &format!("» {said} (simulated)"))))
    }

    /// Two containers of runc: one that asks for the card, and one that does not.
    fn inside(&self, name: &str) -> anyhow::Result<()> {
        let tree = self.machine(name)?.path().to_owned();
        let tried = Inside::find().and_then(|inside| {
            let asked = inside.smi(&tree, true).map_err(|error| format!("{error:#}"))?;
            let unasked = inside.smi(&tree, false).map_err(|error| format!("{error:#}"))?;
            Ok((inside, asked, unasked))
        });
        let (inside, asked, unasked) = match tried {
            Ok(tried) => tried,
            Err(why) => {
                return say(&format!("{}\n\n", paint(Tone::Warn, &format!("» not shown: a container of runc. {why}"))));
            }
        };
        let library = match inside.library {
            Some(_) => "the card in it is the simulated library's",
            None => {
                "in it thruway reads the simulated machine's tree, for the simulated NVML is not beside this program"
            }
        };
        let text =
            format!("» a container, for real: thruway-runtime, then runc, on this machine; {library} (simulated)");
        say(&format!(
            "{}\n\n",
            wrap(&text, 98).iter().map(|line| paint(Tone::Warn, line)).collect::<Vec<_>>().join("\n")
        ))?;
        for (asks, said) in [(true, asked), (false, unasked)] {
            let asks = if asks { "NVIDIA_VISIBLE_DEVICES=all " } else { "" };
            say(&format!(
                "{}{}\n\n",
                paint(Tone::Faint, "container$ "),
                paint(Tone::Code, &format!("{asks}thruway smi"))
            ))?;
            say(&format!("{}\n", said.out.lines().map(tame).collect::<Vec<_>>().join("\n")))?;
            if said.status != 0 {
                say(&format!("{}\n", paint(Tone::Faint, &format!("[exit status {}]", said.status))))?;
            }
            say("\n")?;
        }
        Ok(())
    }

    fn machine(&self, name: &str) -> anyhow::Result<&Scratch> {
        self.machines.get(name).with_context(|| format!("no machine is called {name} yet, and no directory holds one"))
    }

    /// With --step, a key before each command and event.
    fn wait(&self) -> anyhow::Result<()> {
        if self.step && std::io::stdin().is_terminal() {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line)?;
        }
        Ok(())
    }
}

fn words<const N: usize>(text: &str) -> anyhow::Result<[&str; N]> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let count = words.len();
    words.try_into().ok().with_context(|| format!("{N} words are wanted, {count} are there"))
}

/// What a person edits or a generator writes: every file and link below these, by digest.
fn fingerprint(machine: &dyn Machine) -> BTreeMap<String, Digest> {
    const PLACES: [&str; 6] = ["/etc", "/boot", "/lib", "/usr", "/var", "/opt"];
    let mut found = BTreeMap::new();
    let mut todo: Vec<String> = PLACES.map(str::to_owned).to_vec();
    while let Some(path) = todo.pop() {
        if path == journal::STATE_DIR {
            continue;
        }
        if let Seen::Is(target) = machine.link(&path) {
            found.insert(path, Digest::of(target.as_bytes()));
        } else if machine.is_dir(&path) {
            todo.extend(machine.names(&path).into_iter().map(|name| format!("{path}/{name}")));
        } else if let Seen::Is(bytes) = machine.read(&path) {
            found.insert(path, Digest::of(&bytes));
        }
    }
    found
}
