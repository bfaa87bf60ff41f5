//! Up: each floor's plan made where it is carried out, shown, applied, and looked at until its effect is there.

use std::time::{Duration, Instant};

use crate::remote::{self, Card, Outcome, Remote, State as Is, VmSays};
use crate::visit::Visit;
use crate::walk::{Stop, Trouble, Walker};
use crate::way::{Driver, From};

/// What a controller of the cluster may take until it has done what it was told.
const ROLLOUT: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_secs(3);

/// What a floor's changes still wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Waits {
    Nothing,
    Boot,
    VmStart,
}

impl Walker<'_> {
    pub fn up(&mut self) -> Result<String, Stop> {
        let way = self.way;
        let host = self.visit(&self.host(), false)?;
        let mut card = None;
        if let Some(vm) = &way.vm {
            let found = self.find_card(&host)?;
            let to = format!("vm:{}", vm.id);
            let mut words = vec!["--give", &found, "--to", &to];
            words.extend(way.host.allow.iter().flat_map(|id| ["--allow", id.as_str()]));
            self.floor(&host.remote(), &host, "host", &words)?;
            self.boot(&host, "host")?;
            self.verify(&host.remote(), &host, "host", "the effect is there: driver, IOMMU group, node")?;
            self.vm(&host, &words)?;
            card = Some(found);
        }
        let worker = match self.guest() {
            Some(place) if self.go.dry_run && !self.answers(&place)? => return Ok(self.well(None)),
            Some(place) => self.visit(&place, true)?,
            None if way.vm.is_some() => return Ok(self.well(card.as_deref())),
            None => host.clone(),
        };
        if way.guest.as_ref().map_or(Driver::Install, |guest| guest.driver) == Driver::Install {
            let file = way.guest.as_ref().and_then(|guest| guest.driver_file.clone());
            let words: Vec<&str> = file.iter().flat_map(|file| ["--driver-file", file.as_str()]).collect();
            self.floor(&worker.remote(), &worker, "guest", &words)?;
            self.boot(&worker, "guest")?;
        }
        self.driver(&worker)?;
        self.containers(&worker)?;
        self.cluster(&worker)?;
        self.app(&worker)?;
        Ok(self.well(card.as_deref()))
    }

    /// A dry run starts no VM: whether the guest is there to be looked at.
    fn answers(&mut self, place: &crate::visit::Place) -> Result<bool, Stop> {
        self.step(place.role, "guest/reach", &format!("{} answers", place.at), |walker| {
            let reach = crate::Reach::new(crate::At::of(&place.at), walker.way.ssh.config.clone(), &walker.go.control);
            match reach.open(walker.go.terminal) {
                Ok(()) => Ok((true, "it runs".into(), false)),
                Err(crate::Lost::Unreachable { .. }) => {
                    Ok((false, format!("{} does not answer yet: its floors are planned when it runs", place.at), false))
                }
                Err(lost) => Err(lost.into()),
            }
        })
    }

    fn well(&self, card: Option<&str>) -> String {
        if self.go.dry_run {
            return "nothing was changed".into();
        }
        card.map_or_else(|| "the way is open".into(), |card| format!("the way of {card} is open"))
    }

    /// The card that is meant, by its address there.
    fn find_card(&mut self, host: &Visit) -> Result<String, Stop> {
        let wish = self.way.host.card.clone();
        if let Some(bdf) = wish.as_deref().and_then(|card| card.parse::<model::Bdf>().ok()) {
            return Ok(bdf.to_string());
        }
        self.step("host", "host/card", "which card is meant", |_| {
            let all = host.remote().cards()?;
            let meant: Vec<&Card> =
                all.iter().filter(|card| wish.as_ref().map_or(card.nvidia, |id| &card.id == id)).collect();
            let list = |cards: &[&Card]| cards.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            let (says, words) = match meant.as_slice() {
                [card] => return Ok((card.bdf.clone(), card.to_string(), false)),
                [] => {
                    let what = wish.map_or("no NVIDIA GPU".to_owned(), |id| format!("no card {id}"));
                    (format!("{what} is on {}", host.place.at), list(&all.iter().collect::<Vec<_>>()))
                }
                several @ [first, ..] => {
                    let (count, at, bdf) = (several.len(), &host.place.at, &first.bdf);
                    let says = format!("{count} cards of {at} fit: name one by its address, host.card = \"{bdf}\"");
                    (says, list(several))
                }
            };
            Err(Trouble::Failed { says, words })
        })
    }

    /// The outcomes of this way's changes there, and what they wait for.
    fn look(&mut self, remote: &Remote<'_>, floor: &str) -> Result<(Vec<Outcome>, Waits), Trouble> {
        let id = &self.state.kept.id;
        let here = remote.here()?;
        let ours: Vec<u64> = here
            .standing
            .iter()
            .filter(|change| change.by.as_ref() == Some(id) && change.floors.iter().any(|name| name == floor))
            .map(|change| change.number)
            .collect();
        if ours.is_empty() {
            return Ok((Vec::new(), Waits::Nothing));
        }
        let outcomes = remote.verify(word(floor), &ours)?;
        let mut waits = Waits::Nothing;
        for outcome in &outcomes {
            if let Is::Pending(why) = &outcome.state {
                if why == model::A_REBOOT {
                    waits = Waits::Boot;
                } else if why.starts_with(model::A_VM_START) && waits == Waits::Nothing {
                    waits = Waits::VmStart;
                }
            }
        }
        Ok((outcomes, waits))
    }

    /// Reboots the machine where this floor's changes wait for that.
    fn boot(&mut self, visit: &Visit, floor: &str) -> Result<(), Stop> {
        if self.go.dry_run {
            return Ok(());
        }
        let role = visit.place.role;
        self.step(role, &format!("{floor}/boot"), "a reboot, where a change waits for one", |walker| {
            let (_, waits) = walker.look(&visit.remote(), floor)?;
            if waits != Waits::Boot {
                return Ok(((), "nothing waits for a boot".into(), false));
            }
            let at = &visit.place.at;
            if !visit.place.reboot {
                return Err(Trouble::Yours(format!(
                    "{at} must be rebooted, and the file does not allow it ({role}.reboot = true): reboot it, then `thruway up` again"
                )));
            }
            if visit.reach.is_here() {
                return Err(Trouble::Yours("this very machine must be rebooted: systemctl reboot, then `thruway up` again".into()));
            }
            walker.agreed(&format!("Reboot {at} now?"))?;
            let before = visit.remote().here()?.boot;
            walker.hold_again(visit)?;
            walker.reboot(visit, before.as_deref())?;
            walker.idle(visit)?;
            Ok(((), format!("{at} is back"), true))
        })
    }

    /// Looks until the floor's changes hold, or says what is wrong in the doctor's words.
    fn verify(&mut self, remote: &Remote<'_>, visit: &Visit, floor: &str, says: &str) -> Result<(), Stop> {
        if self.go.dry_run {
            return Ok(());
        }
        self.step(visit.place.role, &format!("{floor}/verify"), says, |walker| {
            walker.shown(&remote.command(&remote.words(&[word(floor), "verify"])));
            let begun = Instant::now();
            loop {
                let (outcomes, waits) = walker.look(remote, floor)?;
                let bad = outcomes.iter().find_map(|outcome| match &outcome.state {
                    Is::Failed(why) => Some(format!("{}: {why}", outcome.says)),
                    Is::Unknown(why) => Some(format!("{}: could not look: {why}", outcome.says)),
                    _ => None,
                });
                if let Some(says) = bad {
                    let words = walker.doctor(remote, floor);
                    return Err(Trouble::Failed { says: crate::tame(&says), words });
                }
                let pending = outcomes.iter().find_map(|outcome| match &outcome.state {
                    Is::Pending(why) => Some(format!("{}: waits for {why}", outcome.says)),
                    _ => None,
                });
                let Some(pending) = pending else {
                    let says = match outcomes.as_slice() {
                        [] => "nothing of this way's stands on this floor: it was so before".into(),
                        outcomes => {
                            outcomes.iter().map(|outcome| crate::tame(&outcome.says)).collect::<Vec<_>>().join("; ")
                        }
                    };
                    return Ok(((), says, false));
                };
                let pending = crate::tame(&pending);
                // the VM's start is the next step's
                if floor == "host" && waits == Waits::VmStart {
                    return Ok(((), pending, false));
                }
                if floor != "cluster" || begun.elapsed() > ROLLOUT {
                    let words = walker.doctor(remote, floor);
                    return Err(Trouble::Failed { says: pending, words });
                }
                walker.stopped()?;
                walker.waiting(begun.elapsed(), ROLLOUT);
                std::thread::sleep(LOOK_AGAIN);
            }
        })
    }

    /// The doctor's report of a floor, for a verdict that is bad.
    fn doctor(&mut self, remote: &Remote<'_>, floor: &str) -> String {
        let words = remote.words(&["doctor", "--layer", word(floor)]);
        match remote.run(&words, remote::SHORT, &mut |_| {}) {
            Ok(ran) => crate::tame(&String::from_utf8_lossy(&ran.out)),
            Err(lost) => lost.to_string(),
        }
    }

    /// The VM's definition, and its start.
    fn vm(&mut self, host: &Visit, words: &[&str]) -> Result<(), Stop> {
        let Some(vm) = &self.way.vm else { return Ok(()) };
        let here;
        let visit = match &vm.pve {
            None => host,
            Some(_) => {
                here = self.visit(&self.here(), false)?;
                &*here
            }
        };
        let remote = visit.remote_of_vm(vm);
        self.floor(&remote, visit, "vm", words)?;
        if self.go.dry_run {
            return Ok(());
        }
        self.step("host", "vm/start", &format!("VM {} runs, with what it was given", vm.id), |walker| {
            let runs = walker.runs(host)?;
            let (_, waits) =
                if vm.pve.is_some() { (Vec::new(), Waits::Nothing) } else { walker.look(&remote, "vm")? };
            if runs && waits != Waits::VmStart {
                return Ok(((), "it runs".into(), false));
            }
            if !vm.start {
                let word = if runs { "stop and start it" } else { "start it" };
                return Err(Trouble::Yours(format!(
                    "VM {}: {word}, then `thruway up` again; or say vm.start = true",
                    vm.id
                )));
            }
            if runs {
                walker.agreed(&format!("Shut VM {} down and start it?", vm.id))?;
                walker.power(host, false)?;
            } else if !walker.state.kept.started {
                walker.state.kept.started = true;
                walker.state.keep()?;
            }
            walker.power(host, true)?;
            Ok(((), if runs { "stopped and started" } else { "started" }.into(), true))
        })?;
        self.verify(&remote, visit, "vm", "the running VM has the card")
    }

    /// The VM, as its host says it is now.
    fn find_vm(&self, host: &Visit) -> Result<Option<VmSays>, Trouble> {
        let Some(vm) = &self.way.vm else { return Ok(None) };
        Ok(host.remote().vms()?.into_iter().find(|one| one.id == vm.id || one.name == vm.id))
    }

    /// Whether the VM runs, as its host says.
    pub fn runs(&mut self, host: &Visit) -> Result<bool, Trouble> {
        let Some(vm) = &self.way.vm else { return Ok(false) };
        match self.find_vm(host)? {
            Some(one) => one.running.ok_or_else(|| {
                Trouble::says(format!("whether VM {} runs could not be seen on {}", vm.id, host.place.at))
            }),
            None => Err(Trouble::says(format!("there is no VM {} on {}", vm.id, host.place.at))),
        }
    }

    /// Starts the VM, or shuts it down, and waits until it is so.
    pub fn power(&mut self, host: &Visit, on: bool) -> Result<(), Trouble> {
        let Some(vm) = &self.way.vm else { return Ok(()) };
        let kind = self.find_vm(host)?.map(|one| one.kind);
        let own = if on { &vm.start_command } else { &vm.stop_command };
        let id = crate::quote(&vm.id);
        let script = match (own, kind.as_deref()) {
            (Some(command), _) => command.clone(),
            (None, Some("proxmox")) if on => format!("qm start {id}"),
            (None, Some("proxmox")) => format!("qm shutdown {id} --timeout 300"),
            (None, Some("libvirt")) if on => format!("virsh --connect qemu:///system start {id}"),
            (None, Some("libvirt")) => format!("virsh --connect qemu:///system shutdown {id}"),
            (None, _) => {
                return Err(Trouble::says(format!(
                    "how VM {} is started is not known: say vm.start_command and vm.stop_command",
                    vm.id
                )));
            }
        };
        self.shown(&script);
        let (code, said) = crate::visit::shell(&host.reach, &script, host.place.sudo, remote::LONG)?;
        if code != 0 {
            let check = host.remote();
            let text = check.run(&check.words(&["vm", "check", &vm.id]), remote::SHORT, &mut |_| {})?;
            let words = format!("{said}\n{}", crate::tame(&String::from_utf8_lossy(&text.out)));
            return Err(Trouble::Failed { says: format!("{script} ended with status {code}"), words });
        }
        let begun = Instant::now();
        let limit = Duration::from_secs(300);
        while self.runs(host)? != on {
            if begun.elapsed() > limit {
                return Err(Trouble::says(format!(
                    "VM {} does not {} within {} s",
                    vm.id,
                    if on { "start" } else { "stop" },
                    limit.as_secs()
                )));
            }
            self.stopped()?;
            self.waiting(begun.elapsed(), limit);
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// The driver answers: by its library, whoever installed it.
    fn driver(&mut self, worker: &Visit) -> Result<(), Stop> {
        self.verify(&worker.remote(), worker, "guest", "the driver's changes are in effect")?;
        if self.go.dry_run {
            return Ok(());
        }
        self.step(worker.place.role, "guest/driver", "the driver answers for the card", |walker| {
            let remote = worker.remote();
            let words = remote.words(&["smi", "-L"]);
            walker.shown(&remote.command(&words));
            let ran = remote.run(&words, remote::SHORT, &mut |_| {})?;
            let text = crate::tame(String::from_utf8_lossy(&ran.out).trim());
            if ran.code == 0 && text.contains("GPU 0") {
                return Ok(((), text.replace('\n', "; "), false));
            }
            let words = walker.doctor(&remote, "guest");
            let why = if text.is_empty() { crate::reach::last(&ran.err) } else { text };
            Err(Trouble::Failed { says: format!("no driver answers on {}: {why}", worker.place.at), words })
        })
    }

    fn containers(&mut self, worker: &Visit) -> Result<(), Stop> {
        let Some(container) = &self.way.container else { return Ok(()) };
        let mut words = Vec::new();
        if let Some(engine) = &container.engine {
            words.extend(["--engine", engine]);
        }
        if let Some(runtime) = &container.runtime {
            words.extend(["--runtime", runtime]);
        }
        if container.default_runtime {
            words.push("--default-runtime");
        }
        self.programs(worker, container.runtime.as_deref() == Some("thruway"))?;
        let remote = worker.remote();
        self.floor(&remote, worker, "container", &words)?;
        self.verify(&remote, worker, "container", "the engine knows the card")?;
        if self.go.dry_run || !container.test && container.test_command.is_none() {
            return Ok(());
        }
        self.step(worker.place.role, "container/test", "a container has the card, and computes", |walker| {
            if let Some(script) = &container.test_command {
                walker.shown(script);
                let (code, said) = crate::visit::shell(&worker.reach, script, worker.place.sudo, remote::LONG)?;
                let says = crate::reach::last(&said);
                if code != 0 {
                    return Err(Trouble::Failed {
                        says: format!("the container's test ended with status {code}: {says}"),
                        words: said,
                    });
                }
                said.lines().for_each(|line| walker.line(line));
                return Ok(((), says, false));
            }
            let mut words = vec!["container", "test"];
            words.extend(container.engine.iter().flat_map(|engine| ["--engine", engine.as_str()]));
            words.extend(container.image.iter().flat_map(|image| ["--image", image.as_str()]));
            let words = remote.words(&words);
            walker.shown(&remote.command(&words));
            let ran = remote.run(&words, remote::LONG, &mut |line| walker.line(line))?;
            let text = crate::tame(&String::from_utf8_lossy(&ran.out));
            match ran.code {
                0 => Ok(((), crate::reach::last(&text), false)),
                1 => Err(Trouble::Failed { says: "a container does not have the card".into(), words: text }),
                _ => Err(remote::said(&ran).into()),
            }
        })
    }

    fn cluster(&mut self, worker: &Visit) -> Result<(), Stop> {
        let Some(cluster) = &self.way.cluster else { return Ok(()) };
        let words: Vec<&str> = cluster.deployment.iter().flat_map(|name| ["--deployment", name.as_str()]).collect();
        let here;
        let visit = match cluster.from {
            From::Node => worker,
            From::Here => {
                here = self.visit(&self.here(), false)?;
                &*here
            }
        };
        let remote = visit.remote();
        self.floor(&remote, visit, "cluster", &words)?;
        self.verify(&remote, visit, "cluster", "the API has it so")
    }

    fn app(&mut self, worker: &Visit) -> Result<(), Stop> {
        let Some(app) = &self.way.app else { return Ok(()) };
        let remote = worker.remote();
        self.floor(&remote, worker, "app", &[])?;
        self.verify(&remote, worker, "app", "the settings are in effect")?;
        if self.go.dry_run || !app.prove {
            return Ok(());
        }
        self.step(worker.place.role, "app/prove", "the app uses the card", |walker| {
            let words = remote.words(&["app", "prove"]);
            walker.shown(&remote.command(&words));
            let ran = remote.run(&words, remote::LONG, &mut |line| walker.line(line))?;
            let text = crate::tame(&String::from_utf8_lossy(&ran.out));
            match ran.code {
                0 => Ok((
                    (),
                    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned(),
                    false,
                )),
                1 => Err(Trouble::Failed { says: "the app does not use the card".into(), words: text }),
                _ => Err(remote::said(&ran).into()),
            }
        })
    }
}

/// The floor as a word of the command line.
pub fn word(floor: &str) -> &str {
    if floor == "cluster" { "kube" } else { floor }
}
