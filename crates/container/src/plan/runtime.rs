//! Which program engines are to know by the name nvidia.

use model::{GpuRuntime, Intent, Refusal};

use crate::Facts;

/// The name under which every guide, `--runtime nvidia` and RuntimeClass nvidia ask for it.
pub(super) const NAME: &str = "nvidia";

pub(super) struct Runtime {
    /// Full path; `None`: there is none, or none is wanted.
    pub path: Option<String>,
    /// The user said whose: then every engine is told, needed or not.
    pub asked: bool,
    /// It is thruway's own.
    pub ours: bool,
    /// It is to be the engines' default.
    pub default: bool,
}

impl Runtime {
    pub fn wanted(facts: &Facts, intent: &Intent) -> Result<Runtime, Refusal> {
        let replace = intent.replace_toolkit.then_some(GpuRuntime::Thruway);
        let nvidias = facts.toolkit.runtime.clone().filter(|_| !facts.own.bears_runtime);
        let refuse = |says: &str, instead: &str| {
            Err(Refusal { because: "container/gpu-way".to_owned(), says: says.to_owned(), instead: instead.to_owned() })
        };
        let asked = intent.runtime.or(replace);
        let path = match asked {
            Some(GpuRuntime::Thruway) if facts.own.runtime.is_none() => {
                return refuse(
                    "thruway-runtime is not installed on this machine",
                    "install it as /usr/bin/thruway-runtime, beside /usr/bin/thruway and /usr/bin/thruway-hook",
                );
            }
            Some(GpuRuntime::Thruway) => facts.own.runtime.clone(),
            Some(GpuRuntime::Nvidia) if nvidias.is_none() => {
                return refuse(
                    "nvidia-container-runtime is not installed on this machine",
                    "install nvidia-container-toolkit, or say --runtime thruway",
                );
            }
            Some(GpuRuntime::Nvidia) => nvidias,
            Some(GpuRuntime::Nobody) if intent.default_runtime => {
                return refuse(
                    "no runtime cannot be the default one",
                    "leave --default-runtime or --runtime none away",
                );
            }
            Some(GpuRuntime::Nobody) => None,
            None => nvidias.or_else(|| facts.own.runtime.clone()),
        };
        let ours = path.is_some() && path == facts.own.runtime;
        let asked = asked.is_some_and(|whose| whose != GpuRuntime::Nobody);
        Ok(Runtime { path, asked, ours, default: intent.default_runtime })
    }

    /// "thruway's runtime", "NVIDIA's runtime".
    pub fn whose(&self) -> &'static str {
        if self.ours { "thruway's runtime" } else { "NVIDIA's runtime" }
    }

    /// What a default runtime gives away: NVIDIA's trusts the environment of every image.
    pub fn default_risk(&self) -> &'static str {
        if self.ours {
            "every container then starts through thruway's runtime; by its policy who may ask for a GPU by environment"
        } else {
            "any image that sets NVIDIA_VISIBLE_DEVICES then gets every GPU, asked for or not"
        }
    }
}
