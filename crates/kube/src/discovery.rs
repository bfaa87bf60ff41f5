//! Whether a node has an NVIDIA card that pods could get: what the tiny discovery of every node looks at, and the label by
//! which the agent's DaemonSet finds its nodes.
//!
//! A PCI function of display class and vendor 10de alone says little: bound to vfio-pci or promised to a VM it is no pod's.
//! Whether the driver works is not asked here; that is `nvidia.com/gpu.present`, set by the agent.

use std::collections::BTreeMap;

use gpu::Function;
use journal::ledger::{self, Ledger, Owner};
use machine::Machine;
use model::{Bdf, PciId, Seen};
use serde::Serialize;

pub use crate::manifests::PCI_PRESENT;

/// An NVIDIA function of display class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    pub bdf: Bdf,
    pub id: PciId,
    /// The driver that holds it.
    pub driver: Option<String>,
    /// Why no pod can get it; none: one could.
    pub kept_from_pods: Option<String>,
}

/// The node's NVIDIA cards by sysfs and the ledger. No privilege is needed: a ledger that may not be read promises nothing
/// here, and the agent, who may read it, offers no card that it promises to another.
pub fn look(machine: &dyn Machine) -> Seen<Vec<Found>> {
    let (functions, looked) = gpu::functions(machine);
    let ledger = ledger::read(machine);
    let found: Vec<Found> = functions.iter().filter(|f| is_display(f)).map(|f| found(f, &ledger)).collect();
    match looked {
        // what was found is found; what could not be looked at may be another
        Seen::Unreadable(why) if found.is_empty() => Seen::Unreadable(why),
        Seen::Absent if found.is_empty() => Seen::Absent,
        _ => Seen::Is(found),
    }
}

fn is_display(function: &Function) -> bool {
    function.id.vendor == PciId::NVIDIA && function.class >> 16 == 0x03
}

fn found(function: &Function, ledger: &Ledger) -> Found {
    let driver = function.driver.get().cloned();
    let promised = ledger.promises.iter().map(|written| &written.promise).find_map(|promise| match &promise.to {
        Owner::Vm(name) if promise.gpu.bdf == function.bdf && promise.gpu.id == function.id => Some(name.clone()),
        _ => None,
    });
    let kept_from_pods = match (driver.as_deref(), promised) {
        (Some(driver @ ("vfio-pci" | "nvgrace_gpu_vfio_pci" | "nvidia_vgpu_vfio")), _) => {
            Some(format!("{driver} holds it, for a VM"))
        }
        (_, Some(vm)) => Some(format!("it is promised to VM {vm}")),
        _ => None,
    };
    Found { bdf: function.bdf, id: function.id, driver, kept_from_pods }
}

/// The labels that discovery wants on the node.
pub fn labels(found: &[Found]) -> BTreeMap<String, String> {
    let any = found.iter().any(|card| card.kept_from_pods.is_none());
    any.then(|| (PCI_PRESENT.to_owned(), "true".to_owned())).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use journal::ledger::{FORM, Promise};
    use machine::Memory;
    use model::Identity;

    use super::*;

    const AT: &str = "/sys/bus/pci/devices/0000:01:00.0";

    /// A machine with one function.
    fn machine(uevent: &str) -> Memory {
        let mut memory = Memory::new("a node");
        memory.insert_file(&format!("{AT}/uevent"), uevent.as_bytes());
        memory.insert_file(&format!("{AT}/revision"), b"0xa1\n");
        if let Some(driver) = uevent.lines().find_map(|line| line.strip_prefix("DRIVER=")) {
            memory.insert_link(&format!("{AT}/driver"), &format!("../../../bus/pci/drivers/{driver}"));
        }
        memory
    }

    fn wanted(machine: &Memory) -> bool {
        let found = look(machine).is().unwrap_or_default();
        labels(&found).get(PCI_PRESENT).map(String::as_str) == Some("true")
    }

    const CARD: &str = "PCI_CLASS=30000\nPCI_ID=10DE:1D01\nPCI_SUBSYS_ID=1043:85F4\nPCI_SLOT_NAME=0000:01:00.0\n";

    #[test]
    fn a_display_function_of_nvidia_that_no_vm_has() {
        assert!(wanted(&machine(CARD)), "without a driver yet");
        assert!(wanted(&machine(&format!("DRIVER=nvidia\n{CARD}"))));
        assert!(wanted(&machine(&format!("DRIVER=nouveau\n{CARD}"))), "the agent says what is wrong there");
        assert!(wanted(&machine(&CARD.replace("30000", "30200"))), "3D controller");
        assert!(!wanted(&machine(&format!("DRIVER=vfio-pci\n{CARD}"))));
        assert!(!wanted(&machine(&CARD.replace("30000", "40300"))), "its sound");
        assert!(!wanted(&machine(&CARD.replace("10DE", "1002"))), "another's");
        assert!(!wanted(&machine(&CARD.replace("30000", "68000"))), "a switch of NVIDIA's is no card");
        assert!(!wanted(&Memory::new("empty")));
    }

    #[test]
    fn the_ledger_is_asked() {
        let promise = |to: Owner, id: PciId| {
            let bdf = Bdf::new(0, 1, 0, 0);
            let gpu = Identity { bdf, id, subsystem: None, uuid: None };
            let text = Promise { form: FORM, gpu, name: "GT 1030".into(), to }.text();
            let mut machine = machine(&format!("DRIVER=nvidia\n{CARD}"));
            machine.insert_file(&ledger::path(bdf), text.as_bytes());
            machine
        };
        let card = PciId::new(0x10de, 0x1d01);
        assert!(!wanted(&promise(Owner::Vm("100".into()), card)));
        assert!(wanted(&promise(Owner::Pods, card)));
        assert!(
            wanted(&promise(Owner::Vm("100".into()), PciId::new(0x10de, 0x2204))),
            "the promise is of another card"
        );
        let found = look(&promise(Owner::Vm("100".into()), card)).is().expect("a card");
        assert_eq!(found[0].kept_from_pods.as_deref(), Some("it is promised to VM 100"));
    }

    #[test]
    fn one_card_of_two_is_enough() {
        let mut machine = machine(&format!("DRIVER=vfio-pci\n{CARD}"));
        machine.insert_file("/sys/bus/pci/devices/0000:02:00.0/uevent", CARD.as_bytes());
        machine.insert_file("/sys/bus/pci/devices/0000:02:00.0/revision", b"0xa1\n");
        assert!(wanted(&machine));
        assert_eq!(look(&machine).is().map(|found| found.len()), Some(2));
    }
}
