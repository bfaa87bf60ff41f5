//! The two small programs that stand in a container's way, put where CDI specs and engines name them. What is there
//! already is left alone; what was put there goes with `down`.

use std::path::PathBuf;

use crate::remote::{self, Remote};
use crate::visit::Visit;
use crate::walk::{Came, Stop, Trouble, Walker};

/// Where specs, engines' configuration and hooks name them.
const PLACE: &str = "/usr/bin";

impl Walker<'_> {
    /// `runtime`: thruway's own is wanted, too.
    pub fn programs(&mut self, visit: &Visit, runtime: bool) -> Result<(), Stop> {
        if self.go.dry_run {
            return Ok(());
        }
        let role = visit.place.role;
        let names: &[&str] = if runtime { &["thruway-hook", "thruway-runtime"] } else { &["thruway-hook"] };
        self.step(role, &format!("{role}/programs"), &format!("{} in {PLACE}", names.join(", ")), |walker| {
            walker.put(visit, names)
        })
    }

    fn put(&mut self, visit: &Visit, names: &[&str]) -> Came<()> {
        let role = visit.place.role;
        let beside = visit.place.copy.as_ref().map_or_else(|| self.go.program.clone(), PathBuf::from);
        let (mut says, mut did) = (Vec::new(), false);
        for name in names {
            let ours = beside.with_file_name(name);
            let there = format!("{}{PLACE}/{name}", visit.place.root.as_deref().unwrap_or_default());
            let has = Remote::sums(&visit.reach, &[&there])?.remove(&there);
            let Ok(sum) = remote::sum(&ours) else {
                says.push(match has {
                    Some(_) => format!("{name} is there"),
                    None => format!("{name} is neither there nor beside this thruway: containers go without it"),
                });
                continue;
            };
            match has {
                Some(has) if has == sum => says.push(format!("{name} is there")),
                Some(_) => says.push(format!("{name} is there, of another build: left alone")),
                None => {
                    let size = std::fs::metadata(&ours).map_or(0, |meta| meta.len());
                    self.state.kept.placed.entry(role.to_owned()).or_default().insert(there.clone(), sum.clone());
                    self.state.keep()?;
                    self.upload(visit, &ours, &there, &sum)?;
                    says.push(format!("{name} put there, {:.1} MB", size as f64 / 1e6));
                    did = true;
                }
            }
        }
        Ok(((), says.join("; "), did))
    }

    /// Takes away what was put there, where it is still that.
    pub fn programs_back(&mut self, visit: &Visit) -> Result<(), Stop> {
        let role = visit.place.role;
        let Some(placed) = self.state.kept.placed.get(role).cloned() else { return Ok(()) };
        if self.go.dry_run {
            return Ok(());
        }
        self.step(role, &format!("{role}/programs"), "the programs that were put there go", |walker| {
            let paths: Vec<&str> = placed.keys().map(String::as_str).collect();
            let sums = Remote::sums(&visit.reach, &paths)?;
            let mut says = Vec::new();
            for (path, sum) in &placed {
                let quoted = crate::quote(path);
                let script = match sums.get(path) {
                    Some(has) if has == sum => format!("rm -f -- {quoted} {quoted}.new"),
                    Some(_) => {
                        says.push(format!("{path} is another since, and stays"));
                        format!("rm -f -- {quoted}.new")
                    }
                    None => format!("rm -f -- {quoted}.new"),
                };
                let (code, said) = visit.shell(&script, true, remote::SHORT)?;
                if code != 0 {
                    return Err(Trouble::says(format!("{path} could not be removed: {}", crate::reach::last(&said))));
                }
            }
            walker.state.kept.placed.remove(role);
            walker.state.keep()?;
            Ok(((), if says.is_empty() { "gone".into() } else { says.join("; ") }, true))
        })
    }
}
