//! The container floor: engines, the CDI specs they read, and NVIDIA's older runtime beside them.

mod checks;
mod engines;
mod facts;
mod observe;
mod plan;
mod verify;
mod version;

pub use checks::CHECKS;
pub use engines::{CRIO_DROP_IN, PODMAN_DROP_IN};
pub use facts::{
    CharLink, Containerd, Docker, DockerInfo, DropIn, Facts, GpuContainer, NvidiaConfig, Own, Rancher, Reads, Rootless,
    SpecFile, SpecState, Toolkit, Written,
};
pub use observe::observe;
pub use plan::{SPEC_PATH, plan};
pub use verify::verify;
pub use version::Version;

use model::Presence;

/// Whether this machine runs containers at all.
pub fn presence(facts: &Facts) -> Presence {
    let engines = facts.engine_names();
    if !engines.is_empty() {
        return Presence::Here(engines.join(", "));
    }
    match &facts.programs {
        model::Seen::Unreadable(reason) => Presence::Unknown(format!("programs could not be looked for: {reason}")),
        _ => Presence::NotHere("no container engine (Docker, Podman, containerd, CRI-O) is here".to_owned()),
    }
}
