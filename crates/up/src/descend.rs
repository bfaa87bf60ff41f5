//! Down: what bears the way's id is taken back on each machine, last floor first; then what was copied there goes.

use crate::remote;
use crate::visit::Visit;
use crate::walk::{Stop, Trouble, Walker};

impl Walker<'_> {
    pub fn down(&mut self) -> Result<String, Stop> {
        let mut taken = 0;
        if self.state.touched("here") {
            taken += self.take_back_here()?;
        }
        if let Some(place) = self.guest().filter(|_| self.meant("guest")) {
            self.wake()?;
            let guest = self.visit(&place, true)?;
            taken += self.take_back(&guest)?;
            self.programs_back(&guest)?;
            self.boot_back(&guest)?;
            self.leave(&guest)?;
        }
        if self.meant("host") {
            let host = self.visit(&self.host(), false)?;
            self.halt(&host)?;
            taken += self.take_back(&host)?;
            self.programs_back(&host)?;
            self.boot_back(&host)?;
            self.leave(&host)?;
        }
        if self.go.dry_run {
            return Ok("nothing was changed".into());
        }
        let left: Vec<&String> = self.state.kept.touched.iter().filter(|name| self.go.leave.contains(name)).collect();
        if !left.is_empty() {
            let names = left.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            return Ok(format!("taken back but for what stands on {names}, as you said"));
        }
        self.state.forget()?;
        Ok(match taken {
            0 => "nothing of this way's stood".into(),
            1 => "1 change is taken back; all is as it was".into(),
            n => format!("{n} changes are taken back; all is as it was"),
        })
    }

    fn meant(&self, role: &str) -> bool {
        self.state.touched(role) && !self.go.leave.iter().any(|name| name == role)
    }

    /// The guest must run for its changes to be taken back.
    fn wake(&mut self) -> Result<(), Stop> {
        let Some(vm) = &self.way.vm else { return Ok(()) };
        if !vm.start || !self.state.touched("host") {
            return Ok(());
        }
        let host = self.visit(&self.host(), true)?;
        self.step("host", "vm/start", &format!("VM {} runs, so that its guest can be taken back", vm.id), |walker| {
            if walker.go.dry_run || walker.runs(&host)? {
                return Ok(((), "it runs".into(), false));
            }
            walker.state.kept.started = true;
            walker.state.keep()?;
            walker.power(&host, true)?;
            Ok(((), "started".into(), true))
        })
    }

    /// A VM that this way started is shut down again.
    fn halt(&mut self, host: &Visit) -> Result<(), Stop> {
        if !self.state.kept.started || self.go.dry_run {
            return Ok(());
        }
        self.step("host", "vm/stop", "the VM stops, as it was found", |walker| {
            let ran = walker.runs(host)?;
            if ran {
                walker.power(host, false)?;
            }
            walker.state.kept.started = false;
            walker.state.keep()?;
            Ok(((), if ran { "shut down" } else { "it does not run" }.into(), ran))
        })
    }

    /// What was done from here by an API: with it, the VM's; the cluster's lies in this machine's journal.
    fn take_back_here(&mut self) -> Result<usize, Stop> {
        let here = self.visit(&self.here(), false)?;
        let mut taken = 0;
        if let Some(vm) = &self.way.vm
            && vm.pve.is_some()
        {
            taken += self.undo(&here, "vm/undo", &here.remote_of_vm(vm), &["vm", "undo"])?;
        }
        if self.way.cluster.as_ref().is_some_and(|cluster| cluster.from == crate::From::Here) {
            taken += self.undo(&here, "cluster/undo", &here.remote(), &["kube", "undo"])?;
        }
        self.leave(&here)?;
        Ok(taken)
    }

    /// Takes back what this way did on a machine.
    fn take_back(&mut self, visit: &Visit) -> Result<usize, Stop> {
        let role = visit.place.role;
        if !self.go.dry_run {
            self.step(role, &format!("{role}/boots"), "which boot has what is taken back", |walker| {
                let here = walker.idle(visit)?;
                let id = &walker.state.kept.id;
                let booted = here.standing.iter().any(|change| change.by.as_ref() == Some(id) && change.booted);
                if booted && let Some(boot) = here.boot {
                    walker.state.kept.stale_boot.insert(role.to_owned(), boot);
                    walker.state.keep()?;
                }
                Ok(((), if booted { "this one: a reboot follows" } else { "none that runs" }.into(), false))
            })?;
        }
        self.undo(visit, &format!("{role}/undo"), &visit.remote(), &["undo"])
    }

    fn undo(&mut self, visit: &Visit, step: &str, remote: &remote::Remote<'_>, verb: &[&str]) -> Result<usize, Stop> {
        let role = visit.place.role;
        let id = self.state.kept.id.clone();
        self.step(role, step, "what this way changed is taken back", |walker| {
            let mut words = verb.to_vec();
            words.extend(["--by", &id, "--yes", "--json"]);
            if walker.go.dry_run {
                words.push("--dry-run");
            }
            let all = remote.words(&words);
            walker.shown(&remote.command(&all));
            let undone = walker.undo_ours(remote, visit, &words)?;
            let count = undone.len();
            let numbers: Vec<String> = undone.iter().map(u64::to_string).collect();
            let says = match (count, walker.go.dry_run) {
                (0, _) => "nothing of this way's stands".to_owned(),
                (_, true) => format!("would be taken back: change {}", numbers.join(", ")),
                (_, false) => format!("change {} taken back", numbers.join(", ")),
            };
            Ok((count, says, count > 0 && !walker.go.dry_run))
        })
    }

    /// Reboots a machine whose running boot still has what was taken back.
    fn boot_back(&mut self, visit: &Visit) -> Result<(), Stop> {
        let role = visit.place.role;
        let Some(stale) = self.state.kept.stale_boot.get(role).cloned() else { return Ok(()) };
        if self.go.dry_run {
            return Ok(());
        }
        self.step(role, &format!("{role}/boot"), "a boot without what was taken back", |walker| {
            let here = visit.remote().here()?;
            let at = &visit.place.at;
            let due = here.boot.as_deref() == Some(stale.as_str());
            if due {
                if !visit.place.reboot || visit.reach.is_here() {
                    return Err(Trouble::Yours(format!(
                        "{at} must be rebooted to be as it was: reboot it, then `thruway down` again"
                    )));
                }
                walker.agreed(&format!("Reboot {at} now?"))?;
                walker.reboot(visit, here.boot.as_deref())?;
            }
            walker.state.kept.stale_boot.remove(role);
            walker.state.keep()?;
            Ok(((), if due { format!("{at} is back") } else { "it was rebooted since".into() }, due))
        })
    }

    /// Takes away what was copied there.
    fn leave(&mut self, visit: &Visit) -> Result<(), Stop> {
        let role = visit.place.role;
        if self.go.dry_run {
            return Ok(());
        }
        self.step(role, &format!("{role}/leave"), "what was copied there goes", |walker| {
            if role != "here" {
                walker.release(visit)?;
            }
            visit.clean()?;
            walker.state.kept.touched.retain(|name| name != role);
            walker.state.keep()?;
            Ok(((), "gone".into(), true))
        })?;
        self.visits.retain(|one| one.place.role != role || one.reach.at() != visit.reach.at());
        visit.reach.close();
        Ok(())
    }
}
