//! A laid-out machine that is being changed by the simulator: read through the one door, written through its scratch.

use std::collections::BTreeMap;
use std::path::Path;

use machine::scratch::Scratch;
use machine::{Answer, Machine as _, MachineExt as _, Question, Root, SIM_DIR, Stat};

use crate::boxes::Box;
use crate::pci::{self, Pci};
use crate::{lay, physics::PhysicsError};

pub(crate) struct Tree {
    pub root: Root,
    scratch: Scratch,
}

type Done<T = ()> = Result<T, PhysicsError>;

impl Tree {
    pub fn open(path: &Path) -> Done<Tree> {
        let io = |source| PhysicsError::Io { path: path.display().to_string(), source };
        Ok(Tree { root: Root::tree(path).map_err(io)?, scratch: Scratch::again(path).map_err(io)? })
    }

    /// A file's text; empty where it is not there.
    pub fn text(&self, path: &str) -> String {
        self.root.text(path).is().unwrap_or_default()
    }

    pub fn value(&self, path: &str) -> Option<String> {
        self.root.value(path).is()
    }

    pub fn has(&self, path: &str) -> bool {
        self.root.exists(path)
    }

    /// The names in a directory that are files, with their texts, in `LC_ALL=C` order.
    pub fn texts(&self, dir: &str, suffix: &str) -> Vec<(String, String)> {
        let names = self.root.names(dir).into_iter().filter(|name| name.ends_with(suffix));
        names.filter_map(|name| Some((name.clone(), self.root.text(&format!("{dir}/{name}")).is()?))).collect()
    }

    /// `path` with the links above its last name resolved: the simulator writes through no link.
    fn real(&self, path: &str) -> String {
        match path.rsplit_once('/') {
            Some((dir, name)) if !dir.is_empty() => {
                let dir = self.root.resolve(dir).is().unwrap_or_else(|| dir.into());
                format!("{}/{name}", dir.trim_end_matches('/'))
            }
            _ => path.into(),
        }
    }

    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) -> Done {
        let mode = self.root.stat(path).is().map_or(0o644, |stat| stat.mode);
        self.scratch.write(&self.real(path), bytes.as_ref(), mode).map_err(io(path))
    }

    pub fn write_mode(&self, path: &str, bytes: impl AsRef<[u8]>, mode: u32) -> Done {
        self.scratch.write(&self.real(path), bytes.as_ref(), mode).map_err(io(path))
    }

    pub fn link(&self, path: &str, target: &str) -> Done {
        self.scratch.link(&self.real(path), target).map_err(io(path))
    }

    pub fn mkdir(&self, path: &str) -> Done {
        self.scratch.mkdir(&self.real(path)).map_err(io(path))
    }

    /// A directory, where nothing is in it.
    pub fn remove_empty(&self, path: &str) -> Done {
        if self.root.list(path).get().is_some_and(|names| names.is_empty()) { self.remove(path) } else { Ok(()) }
    }

    pub fn remove(&self, path: &str) -> Done {
        self.scratch.remove(&self.real(path)).map_err(io(path))
    }

    /// The hardware as the box has it: functions with the groups that a running IOMMU gives them.
    pub fn hardware(&self) -> Done<Box> {
        let text = self.text(&format!("{SIM_DIR}/box.toml"));
        Ok(Box::parse("box", &text)?)
    }

    pub fn set_hardware(&self, this: &Box) -> Done {
        let text = toml::to_string(this).map_err(|error| PhysicsError::Refused(error.to_string()))?;
        self.write(&format!("{SIM_DIR}/box.toml"), text)
    }

    /// The functions as they are now, after boots and binds.
    pub fn functions(&self) -> Done<Vec<Pci>> {
        match self.root.read(&format!("{SIM_DIR}/now.json")).is() {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| PhysicsError::Refused(error.to_string())),
            None => Ok(self.hardware()?.pci),
        }
    }

    /// Makes /sys say what these functions are now. Attributes that neither a boot nor a bind changes are left alone.
    pub fn set_functions(&self, functions: &[Pci], identity: bool) -> Done {
        let hardware = self.hardware()?;
        let before = self.functions()?;
        let kinds = if identity {
            let all = functions.iter().filter_map(|function| function.group);
            all.map(|group| (group.to_string(), "identity".to_owned())).collect()
        } else {
            hardware.group_type.clone()
        };
        let sys = pci::sys(functions, &kinds, &hardware.group_reserved);
        for function in &before {
            let Some(place) = self.root.resolve(&format!("/sys/bus/pci/devices/{}", function.bdf)).is() else {
                continue;
            };
            if functions.iter().any(|f| f.bdf == function.bdf) {
                self.remove(&format!("{place}/driver"))?;
                self.remove(&format!("{place}/iommu_group"))?;
            } else {
                self.scratch.remove(&place).map_err(io(&place))?;
                self.remove(&format!("/sys/bus/pci/devices/{}", function.bdf))?;
            }
        }
        for driver in self.root.names("/sys/bus/pci/drivers") {
            for name in self.root.names(&format!("/sys/bus/pci/drivers/{driver}")) {
                if name.parse::<model::Bdf>().is_ok() {
                    self.remove(&format!("/sys/bus/pci/drivers/{driver}/{name}"))?;
                }
            }
        }
        for group in self.root.names("/sys/kernel/iommu_groups") {
            self.remove(&format!("/sys/kernel/iommu_groups/{group}"))?;
        }
        let new = |path: &str| {
            let of =
                functions.iter().find(|f| sys.places.get(&f.bdf).is_some_and(|p| path.starts_with(&format!("{p}/"))));
            of.is_some_and(|function| !before.iter().any(|b| b.bdf == function.bdf))
        };
        let changes = |path: &str| {
            let last = path.rsplit('/').next().unwrap_or_default();
            matches!(last, "uevent" | "driver_override" | "enable" | "driver" | "iommu_group")
                && !path.contains("/net/")
                && !path.contains("/block/")
                || path.starts_with("/sys/bus/pci/drivers/")
                || path.starts_with("/sys/kernel/iommu_groups/")
                || path.starts_with("/sys/bus/pci/devices/")
        };
        for (path, bytes) in sys.files.iter().filter(|(path, _)| changes(path) || new(path)) {
            let mode = sys.modes.get(path).copied().unwrap_or(0o644);
            self.scratch.write(path, bytes, mode).map_err(io(path))?;
        }
        for (path, target) in sys.links.iter().filter(|(path, _)| changes(path) || new(path)) {
            self.scratch.link(path, target).map_err(io(path))?;
        }
        self.store("now.json", &functions)
    }

    pub fn store<T: serde::Serialize + ?Sized>(&self, name: &str, value: &T) -> Done {
        lay::store(&self.scratch, name, &value).map_err(io(name))
    }

    pub fn stored<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&self.root.read(&format!("{SIM_DIR}/{name}")).is()?).ok()
    }

    pub fn answer(&self, question: Question) -> Option<Answer> {
        self.root.ask(&question).is()
    }

    pub fn set_answer(&self, question: Question, answer: Option<&Answer>) -> Done {
        match answer {
            Some(answer) => lay::store_answer(&self.scratch, question, answer).map_err(io(question.key())),
            None => self.remove(&format!("{SIM_DIR}/answers/{}.json", question.key())),
        }
    }

    /// Changes the recorded device nodes: those for which `keep` says no go, then `add` come ("char 195:0 0666").
    pub fn set_devices(&self, keep: impl Fn(&str) -> bool, add: &[(String, String)]) -> Done {
        let mut devices: BTreeMap<String, Stat> = self.stored("devices.json").unwrap_or_default();
        devices.retain(|path, _| keep(path));
        for (path, text) in add {
            if let Some((dir, _)) = path.rsplit_once('/') {
                self.mkdir(dir)?;
            }
            devices.extend(lay::device(text).map(|stat| (path.clone(), stat)));
        }
        self.store("devices.json", &devices)
    }

    /// Loads and unloads modules in /proc/modules and /sys/module.
    pub fn set_modules(&self, gone: &[String], loaded: &[String]) -> Done {
        let text = self.text("/proc/modules");
        let name = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.retain(|line| !gone.contains(&name(line)));
        for module in loaded {
            if !lines.iter().any(|line| name(line) == *module) {
                lines.insert(0, format!("{module} 65536 0 - Live 0x0000000000000000"));
            }
        }
        for module in gone.iter().filter(|module| !loaded.contains(module)) {
            self.remove(&format!("/sys/module/{module}"))?;
        }
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.write("/proc/modules", &text)?;
        lay::lay_modules(&self.scratch, &text).map_err(io("/sys/module"))
    }

    pub fn loaded(&self, module: &str) -> bool {
        self.text("/proc/modules").lines().any(|line| line.split_whitespace().next() == Some(module))
    }
}

fn io(path: &str) -> impl FnOnce(std::io::Error) -> PhysicsError {
    let path = path.to_owned();
    move |source| PhysicsError::Io { path, source }
}
