//! A Linux below Windows: one device for every card, and libraries out of Windows' driver store.
//!
//! The libraries load each other by their places in the store, so that they stay there in the container.

use formats::cdispec::{Edits, Spec};
use machine::{FileKind, Machine, MachineExt as _};
use model::Seen;

use crate::NoSpec;
use crate::edits::{HookWork, Place, in_order};
use crate::generate::{device, sealed};
use crate::modes::common;
use crate::options::Options;

const DEVICE: &str = "/dev/dxg";
const STORE: &str = "/usr/lib/wsl/drivers";
const DXCORE: &str = "/usr/lib/wsl/lib/libdxcore.so";

pub(crate) fn generate(machine: &dyn Machine, options: &Options) -> Result<(Spec, Vec<String>), NoSpec> {
    if machine.stat(DEVICE).is_absent() {
        return Err(NoSpec::NotHere(format!("{DEVICE} is not there: this is no Linux below Windows with a GPU")));
    }
    // a store of each display driver; NVIDIA's has libcuda
    let stores = machine.names(STORE).into_iter().map(|name| format!("{STORE}/{name}"));
    let stores: Vec<String> = stores.filter(|dir| machine.exists(&format!("{dir}/libcuda.so.1.1"))).collect();
    let Some(store) = stores.last() else {
        return Err(NoSpec::NotHere(format!(
            "no driver store of NVIDIA's is below {STORE}; update the driver in Windows"
        )));
    };
    let place = Place::new(machine, options);
    let mut mounts = Vec::new();
    let mut work = HookWork::default();
    for name in machine.names(store) {
        let wanted = name == "nvidia-smi" || name.contains(".so") || name.ends_with(".bin") || name.ends_with(".dll");
        let path = format!("{store}/{name}");
        let is_file = matches!(machine.stat(&path), Seen::Is(stat) if stat.kind == FileKind::File);
        if !wanted || !is_file {
            continue;
        }
        mounts.push(place.mount(&path, &path));
        if let Some(soname) =
            machine.library(&path).is().and_then(|object| object.soname).filter(|soname| *soname != name)
        {
            work.links.push((name.clone(), format!("{store}/{soname}")));
        }
        if name == "nvidia-smi" {
            match place.has_hook() {
                true => work.links.push((path.clone(), "/usr/bin/nvidia-smi".to_owned())),
                false => mounts.push(place.mount(&path, "/usr/bin/nvidia-smi")),
            }
        }
    }
    work.folders.push(store.clone());
    let mut notes = Vec::new();
    if machine.exists(DXCORE) {
        mounts.push(place.mount(DXCORE, DXCORE));
        work.folders.push("/usr/lib/wsl/lib".to_owned());
    } else {
        notes.push(format!("{DXCORE} is not there, so nothing would work in containers; wsl --update brings it"));
    }
    if stores.len() > 1 {
        notes.push(format!("{} driver stores of NVIDIA's are there; containers get {store}", stores.len()));
    }
    let devices = vec![device(machine, &place, "all".to_owned(), &[DEVICE.to_owned()])];
    let edits = Edits { hooks: place.hook(&work), ..common(in_order(mounts)) };
    Ok((sealed(options.kind.as_deref().unwrap_or(crate::KIND), devices, edits), notes))
}
