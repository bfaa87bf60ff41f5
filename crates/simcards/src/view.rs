//! A box and a control file, laid together: what NVML answers from until either text changes.

use std::collections::BTreeMap;

use crate::card::{BOXES, BoxFile, CARDS, Card, Control, Driver, Error, Fault, Flip, Instance, Profile, built_in};
use crate::kept::Kept;
use crate::symbols;

/// One simulated machine at one moment.
#[derive(Debug)]
pub struct View {
    pub driver: Driver,
    pub gpus: Vec<Gpu>,
    pub control: Control,
}

/// One GPU at one moment.
#[derive(Clone, Debug)]
pub struct Gpu {
    pub index: u32,
    pub card: Card,
    pub lost: bool,
    pub xids: Vec<u64>,
    pub flips: Vec<Flip>,
    pub wrong_bits: u32,
    pub cuda_mib: Option<u64>,
}

impl View {
    /// From a box's text and the control file's.
    pub fn new(text: &str, control: &str) -> Result<View, Error> {
        View::with_state(text, control, "")
    }

    /// The same with what clients have changed since (MIG): `[[gpus]]` with `index` and `set`, laid over the box.
    pub fn with_state(text: &str, control: &str, state: &str) -> Result<View, Error> {
        let file: BoxFile = toml::from_str(text)?;
        let kept: Kept = toml::from_str(state)?;
        let control: Control = toml::from_str(control)?;
        let mut faults: BTreeMap<u32, &Fault> = control.gpus.iter().map(|fault| (fault.index, fault)).collect();
        let mut gpus = Vec::new();
        for several in &file.gpus {
            for _ in 0..several.count.min(64) {
                let index = u32::try_from(gpus.len()).unwrap_or(u32::MAX);
                let mut table: toml::Table = toml::from_str(built_in(CARDS, &several.card)?)?;
                lay_over(&mut table, &several.set);
                for kept in kept.gpus.iter().filter(|kept| kept.index == index) {
                    lay_over(&mut table, &kept.set);
                }
                let fault = faults.remove(&index);
                if let Some(fault) = fault {
                    lay_over(&mut table, &fault.set);
                }
                let card: Card = toml::Value::Table(table).try_into()?;
                checked(&card)?;
                gpus.push(Gpu {
                    index,
                    card,
                    lost: fault.is_some_and(|fault| fault.lost),
                    xids: fault.map(|fault| fault.xids.clone()).unwrap_or_default(),
                    flips: fault.map(|fault| fault.flips.clone()).unwrap_or_default(),
                    wrong_bits: fault.map_or(0, |fault| fault.wrong_bits),
                    cuda_mib: fault.and_then(|fault| fault.cuda_mib),
                });
            }
        }
        if let Some(index) = faults.keys().next() {
            return Err(Error::Wrong(format!("the control file has a fault for GPU {index}, and there is none")));
        }
        let there = |index: u32| gpus.iter().any(|gpu| gpu.index == index);
        if let Some(link) = control.links.iter().find(|link| !there(link.from) || !there(link.to)) {
            let (from, to) = (link.from, link.to);
            return Err(Error::Wrong(format!(
                "the control file has a link from GPU {from} to {to}, and one is not there"
            )));
        }
        Ok(View { driver: file.driver, gpus, control })
    }

    /// A built-in box or card by its name.
    pub fn named(name: &str) -> Result<&'static str, Error> {
        built_in(BOXES, name)
    }

    /// True where this driver has no such function: it is too old, or the control file says so.
    pub fn lacks(&self, function: &str) -> bool {
        self.control.lacks.iter().any(|lacking| lacking == function)
            || symbols::since(function).is_some_and(|branch| branch > self.branch())
    }

    /// 580 of "580.159.04".
    pub fn branch(&self) -> u32 {
        self.driver.version.split('.').next().and_then(|text| text.parse().ok()).unwrap_or(u32::MAX)
    }
}

fn lay_over(table: &mut toml::Table, set: &toml::Table) {
    for (key, value) in set {
        match (table.get_mut(key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => lay_over(under, over),
            _ => {
                table.insert(key.clone(), value.clone());
            }
        }
    }
}

fn checked(card: &Card) -> Result<(), Error> {
    if let Some(mig) = &card.mig {
        for instance in &mig.instances {
            if !mig.profiles.iter().any(|profile| profile.name == instance.profile) {
                return Err(Error::Wrong(format!("{} has no MIG profile {}", card.name, instance.profile)));
            }
        }
    }
    if let Some(wrong) = card.video.wrong() {
        return Err(Error::Wrong(format!("{}: {wrong}", card.name)));
    }
    if card.reserved_mib + card.used_mib > card.memory_mib {
        return Err(Error::Wrong(format!("{}: more memory is used than there is", card.name)));
    }
    Ok(())
}

impl Gpu {
    /// (domain, bus, device).
    pub fn at(&self) -> (u32, u32, u32) {
        self.card.at.map_or((0, self.index + 1, 0), |[domain, bus, device]| (domain, bus, device))
    }

    /// "00000000:01:00.0".
    pub fn bus_id(&self) -> String {
        let (domain, bus, device) = self.at();
        format!("{domain:08X}:{bus:02X}:{device:02X}.0")
    }

    /// Of the right shape, and the same at each start.
    pub fn uuid(&self) -> String {
        format!("GPU-51a51a51-{:04x}-4000-8000-{:012x}", self.card.device, self.index)
    }

    pub fn mig_uuid(&self, instance: &Instance) -> String {
        format!("MIG-51a51a51-{:04x}-5000-8000-{:08x}{:04x}", self.card.device, self.index, instance.gi)
    }

    pub fn serial(&self) -> Option<String> {
        self.card.serial.as_ref().map(|start| format!("{start}{:06}", self.index))
    }

    /// Cut into instances now.
    pub fn mig_enabled(&self) -> bool {
        self.card.mig.as_ref().is_some_and(|mig| mig.enabled)
    }

    pub fn instances(&self) -> &[Instance] {
        self.card.mig.as_ref().filter(|mig| mig.enabled).map_or(&[], |mig| &mig.instances)
    }

    pub fn profile(&self, instance: &Instance) -> Option<&Profile> {
        self.card.mig.as_ref()?.profiles.iter().find(|profile| profile.name == instance.profile)
    }

    /// Bytes.
    pub fn total(&self) -> u64 {
        self.card.memory_mib << 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_box_and_every_card_can_be_read() {
        for (name, text) in BOXES {
            let view = View::new(text, "").unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!view.gpus.is_empty(), "{name}");
        }
        for (name, _) in CARDS {
            assert!(View::named(name).is_ok(), "the card {name} has no box of its own");
        }
        let eight = View::new(View::named("h100x8").expect("a box"), "").expect("a view");
        assert_eq!(eight.gpus.len(), 8);
        assert_eq!(eight.gpus[7].card.processes.len(), 1);
        assert_eq!(eight.gpus[7].bus_id(), "00000000:DF:00.0");
        let small = View::new(View::named("t4").expect("a box"), "").expect("a view");
        assert_eq!(small.gpus[0].bus_id(), "00000000:01:00.0");
    }

    #[test]
    fn the_control_file_is_laid_over_one_gpu() {
        let text = View::named("h100x8").expect("a box");
        let control = "[[gpus]]\nindex = 2\nlost = true\nset = { temperature = { now = 91 } }\n";
        let view = View::new(text, control).expect("a view");
        assert_eq!((view.gpus[2].lost, view.gpus[2].card.temperature.now), (true, 91));
        assert_eq!(view.gpus[2].card.temperature.memory, Some(40), "what is not named stays");
        assert_eq!((view.gpus[3].lost, view.gpus[3].card.temperature.now), (false, 34));
        for wrong in [
            "[[gpus]]\nindex = 8\n",
            "[[links]]\nfrom = 0\nto = 8\n",
            "lots = 1",
            "[[gpus]]\nindex = 0\nset = { used_mib = 99999999 }\n",
        ] {
            assert!(View::new(text, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_old_driver_lacks_what_came_later() {
        let old = View::new(View::named("gt1030-470").expect("a box"), "").expect("a view");
        let new = View::new(View::named("gt1030").expect("a box"), "lacks = ['nvmlDeviceGetName']").expect("a view");
        assert!(old.lacks("nvmlDeviceGetMemoryInfo_v2") && !new.lacks("nvmlDeviceGetMemoryInfo_v2"));
        assert!(!old.lacks("nvmlDeviceGetName") && new.lacks("nvmlDeviceGetName"));
    }
}
