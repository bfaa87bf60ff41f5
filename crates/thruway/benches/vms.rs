//! What a hypervisor with many VMs costs: reading and judging 1,000 Proxmox VE files, in this process, without the
//! inventory of cards. Never a timed test. Run with: cargo bench --bench vms
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "writes a tree and prints figures")]

use std::time::{Duration, Instant};

use machine::Root;
use machine::scratch::Scratch;

const RUNS: usize = 15;
const VMS: usize = 1000;

/// The corpus' most ordinary file, and one with snapshots and everything else.
const PLAIN: &str = include_str!("../../formats/tests/corpus/pve/01-host-slot.conf");
const LONG: &str = include_str!("../../formats/tests/corpus/pve/35-pending-and-snapshots.conf");

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// A node with this many VMs; `all`: each names the card, else one in a hundred.
fn node(all: bool) -> Scratch {
    let scratch = Scratch::temporary().expect("a temporary directory");
    sim::build_named("vm-good", &scratch).expect("the box");
    let dir = scratch.path().join("etc/pve/nodes/pve/qemu-server");
    for n in 0..VMS {
        let text = if n % 10 == 0 { LONG } else { PLAIN };
        let text = if all || n % 100 == 0 { text.to_owned() } else { text.replace("hostpci0: ", "#hostpci0 ") };
        std::fs::write(dir.join(format!("{}.conf", 1000 + n)), text).expect("the tree can be written");
    }
    scratch
}

fn main() {
    for (all, words) in [(false, "one in a hundred has the card"), (true, "all name one card")] {
        let tree = node(all);
        let root = Root::tree(tree.path()).expect("the tree opens");
        let gpus = gpu::observe(&root);
        let (mut looks, mut checks) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let start = Instant::now();
            let facts = vm::observe(&root, &gpus);
            looks.push(start.elapsed());
            assert!(facts.vms.len() > VMS && facts.unread.is_empty());
            let start = Instant::now();
            let findings = model::run_all(vm::CHECKS, &facts);
            checks.push(start.elapsed());
            assert_eq!(findings.len(), vm::CHECKS.len());
        }
        let (looks, checks) = (median(looks), median(checks));
        println!(
            "{VMS} VMs, {words}: reading {}, {} checks {}, together {} (wanted: under 200 ms)",
            ms(looks),
            vm::CHECKS.len(),
            ms(checks),
            ms(looks + checks)
        );
    }
}
