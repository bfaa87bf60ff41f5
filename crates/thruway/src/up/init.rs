//! `thruway way init`: a way file by asking and looking.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use up::{Cluster, Container, Guest, Host, Vm, WayFile};

use crate::cli::{Global, InitArgs};
use crate::paint::{Page, Tone, paint};
use crate::{DONE, say};

pub fn init(_global: &Global, args: &InitArgs) -> anyhow::Result<u8> {
    let path = &args.file;
    if path.exists() && !args.force {
        bail!("{} is there already: --force writes over it", path.display());
    }
    let ask = Ask { terminal: std::io::stdin().is_terminal() };
    let at = ask.or(args.host.as_deref(), "The host: a destination of ssh (root@pve), or here", Some("here"))?;
    let Some(at) = at else { bail!("which host? --host root@pve, or --host here") };
    let machine = Machine::look(&at, args.sudo);
    let machine = match machine {
        Ok(machine) => Some(machine),
        Err(why) => {
            say(&format!("{}\n", paint(Tone::Warn, &format!("{at} could not be looked at: {why}"))))?;
            None
        }
    };
    let card = match (&args.card, &machine) {
        (Some(card), _) => Some(card.clone()),
        (None, Some(machine)) => machine.choose_card(&ask)?,
        (None, None) => ask.or(
            None,
            "The card: its address (26:00.0) or vendor:device (10de:1d01); nothing: the one that is there",
            None,
        )?,
    };
    let vm = match (&args.vm, &machine) {
        (Some(vm), _) => Some(vm.clone()),
        (None, Some(machine)) => machine.choose_vm(&ask)?,
        (None, None) => ask.or(
            None,
            "The VM that gets it: Proxmox VE's number or libvirt's name; nothing: no VM, the host itself",
            None,
        )?,
    };
    let guest = match &vm {
        None => None,
        Some(vm) => ask.or(
            args.guest.as_deref(),
            &format!("The guest of VM {vm}: a destination of ssh; nothing: the way ends at the VM"),
            None,
        )?,
    };
    let inside = vm.is_none() || guest.is_some();
    let engine = if inside {
        ask.or(
            args.engine.as_deref(),
            "The container engine: docker, containerd, crio, podman, k3s, rke2; nothing: none",
            None,
        )?
    } else {
        None
    };
    let deployment = if inside {
        ask.or(
            args.deployment.as_deref(),
            "The Deployment that is to have it, NAMESPACE/NAME; nothing: no cluster",
            None,
        )?
    } else {
        None
    };
    let name = ask.or(args.name.as_deref(), "A name for the way", Some("home"))?.unwrap_or_else(|| "home".into());
    let reboot =
        args.reboot || ask.yes("May thruway reboot these machines and start the VM where a change waits for that?")?;
    let wait = 600;
    let (thruway, copy, root) = (None, None, None);
    let file = WayFile {
        name,
        ssh: None,
        host: Host { at, sudo: args.sudo, root, thruway, copy, reboot, wait, card, allow: Vec::new() },
        vm: vm.map(|id| Vm {
            id,
            start: reboot,
            start_command: None,
            stop_command: None,
            pve: None,
            pve_token_file: None,
            pve_fingerprint: None,
        }),
        guest: guest.map(|at| Guest {
            at,
            sudo: args.sudo,
            root: None,
            thruway: None,
            copy: None,
            reboot,
            wait,
            driver: up::Driver::Install,
            driver_file: None,
        }),
        container: engine.map(|engine| Container { engine: Some(engine), test: true, ..Container::default() }),
        cluster: deployment.map(|name| Cluster { deployment: Some(name), ..Cluster::default() }),
        app: None,
        fleet: None,
        hosts: std::collections::BTreeMap::new(),
    };
    let text = format!(
        "# The way of one card, from slot to app: thruway up {}\n# What else may stand here: docs/up.md\n\n{}",
        path.display(),
        toml::to_string_pretty(&file)?
    );
    WayFile::read(&text).map_err(|bad| anyhow::anyhow!("this way cannot be meant: {bad}"))?;
    std::fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    let mut page = Page::new();
    page.gap();
    for line in text.lines() {
        page.whole(2, "", 0, Tone::Plain, line);
    }
    page.gap();
    page.line(format!(
        "Written to {0}. Look first: {1}; then: {2}",
        path.display(),
        paint(Tone::Code, &format!("thruway up {} --dry-run", path.display())),
        paint(Tone::Code, &format!("thruway up {}", path.display()))
    ));
    say(&page.text())?;
    Ok(DONE)
}

struct Ask {
    terminal: bool,
}

impl Ask {
    /// What was said beforehand, else what is answered; an empty answer is `otherwise`.
    fn or(&self, said: Option<&str>, question: &str, otherwise: Option<&str>) -> anyhow::Result<Option<String>> {
        if let Some(said) = said {
            return Ok(Some(said.to_owned()));
        }
        if !self.terminal {
            return Ok(None);
        }
        let hint = otherwise.map_or(String::new(), |word| format!(" [{word}]"));
        write!(anstream::stderr(), "{question}{}: ", paint(Tone::Faint, &hint))?;
        std::io::stderr().flush()?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        let line = line.trim();
        Ok(if line.is_empty() { otherwise.map(str::to_owned) } else { Some(line.to_owned()) })
    }

    fn yes(&self, question: &str) -> anyhow::Result<bool> {
        Ok(self.terminal
            && matches!(self.or(None, &format!("{question} [y/N]"), None)?.as_deref(), Some("y" | "Y" | "yes")))
    }

    /// One of several; a number or the thing itself.
    fn choose(&self, what: &str, of: &[(String, String)]) -> anyhow::Result<Option<String>> {
        if !self.terminal {
            return Ok(None);
        }
        let mut page = Page::new();
        for (n, (id, says)) in of.iter().enumerate() {
            page.hang(2, &format!("{}", n + 1), 4, Tone::Plain, &format!("{id}  {says}"));
        }
        write!(anstream::stderr(), "{}", page.text())?;
        let Some(answer) = self.or(None, &format!("{what}: a number of these; nothing: none"), None)? else {
            return Ok(None);
        };
        match answer.parse::<usize>() {
            Ok(n) if (1..=of.len()).contains(&n) => Ok(Some(of[n - 1].0.clone())),
            _ => Ok(Some(answer)),
        }
    }
}

/// What was found on the host.
struct Machine {
    cards: Vec<up::CardSeen>,
    vms: Vec<up::VmSeen>,
}

impl Machine {
    fn look(at: &str, sudo: bool) -> anyhow::Result<Self> {
        let control = super::Control::new()?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let terminal = std::io::stdin().is_terminal();
        let password = |at: &str| {
            if terminal { super::secret(&format!("sudo's password on {at} (kept in memory alone): ")) } else { None }
        };
        let seen = up::look(at, sudo, &program, &control.0, terminal, &password)?;
        Ok(Machine { cards: seen.0, vms: seen.1 })
    }

    fn choose_card(&self, ask: &Ask) -> anyhow::Result<Option<String>> {
        let nvidia: Vec<_> = self.cards.iter().filter(|card| card.nvidia).collect();
        match nvidia.as_slice() {
            [] => bail!("there is no NVIDIA GPU on this host"),
            [card] => Ok(Some(card.bdf.clone())),
            _ if !ask.terminal => bail!("{} cards are there: name one with --card", nvidia.len()),
            _ => {
                let of: Vec<_> =
                    nvidia.iter().map(|card| (card.bdf.clone(), format!("{} [{}]", card.name, card.id))).collect();
                ask.choose("The card", &of)
            }
        }
    }

    fn choose_vm(&self, ask: &Ask) -> anyhow::Result<Option<String>> {
        if self.vms.is_empty() {
            return Ok(None);
        }
        let of: Vec<_> = self.vms.iter().map(|vm| (vm.id.clone(), format!("{} ({})", vm.name, vm.kind))).collect();
        ask.choose("The VM that gets it", &of)
    }
}
