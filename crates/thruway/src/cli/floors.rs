//! The verbs of the floors.

use clap::Subcommand;

use super::{ApplyArgs, BindArgs, PlanArgs, UnbindArgs, UndoArgs};

/// The same verbs on every floor.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// What is wrong on this floor
    Doctor,
    /// Show what would be changed on this floor
    Plan(Box<PlanArgs>),
    /// Carry a plan for this floor out: shows it first and asks
    Apply(Box<ApplyArgs>),
    /// Look again at what was applied on this floor
    Verify,
    /// What this floor is here, who has each card, to whom it is promised, and what was changed
    Status,
    /// Take the newest change of this floor back
    Undo(UndoArgs),
}

/// The host floor's verbs: those of every floor, and its own.
#[derive(Subcommand, Debug)]
pub enum HostVerb {
    #[command(flatten)]
    Common(Verb),
    /// What weakens this host's isolation, and what old guides left on it
    Audit,
    /// Give a card to vfio-pci now, without a reboot: its whole IOMMU group, until the next boot
    #[command(
        long_about = "Give a card to vfio-pci now, without a reboot: its whole IOMMU group, until the next boot.\n\n\
                      Whoever uses the card is found first and named; nothing is torn from anybody. A failure halfway is \
                      taken back. A driver that does not let go in time is reported, not waited for. Take it back with \
                      thruway host unbind or thruway undo."
    )]
    Bind(BindArgs),
    /// Give a card back to the driver that had it before, now
    Unbind(UnbindArgs),
}

/// The guest floor's verbs: those of every floor, and its own.
#[derive(Subcommand, Debug)]
pub enum GuestVerb {
    #[command(flatten)]
    Common(Verb),
    /// Which driver a card needs: branch, open or proprietary modules, by a table with its sources
    #[command(
        long_about = "Which driver a card needs: branch, open or proprietary modules, by a table with its sources. Of the \
                      cards here, or of any PCI id, before you buy.\n\nExit status: 0 known, and the running driver fits; \
                      1 it does not, or a card is unknown."
    )]
    Driver {
        /// A PCI id (10de:1d01), or a card of this machine by number, address, UUID or name; none: all of them
        #[arg(value_name = "CARD")]
        cards: Vec<String>,
    },
}

/// The VM floor's verbs: those of every floor, and its own.
#[derive(Subcommand, Debug)]
pub enum VmVerb {
    #[command(flatten)]
    Common(Verb),
    /// List the VMs of this machine: state, cards, start with the host, machine type and firmware
    List,
    /// Say what would fail before a VM starts; after a failed start, explain its logs
    Check {
        /// The VM: Proxmox VE's number, or a name
        #[arg(value_name = "VM")]
        vm: String,
    },
}
