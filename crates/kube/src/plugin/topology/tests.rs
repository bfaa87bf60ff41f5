use model::Bdf;

use super::*;
use crate::plugin::fixtures::gpu;

fn score(a: Gpu, b: Gpu) -> u32 {
    let mut found = Found { gpus: vec![a, b], ..Found::default() };
    found.gpus[1].uuid = Some("GPU-b".into());
    found.gpus[0].uuid = Some("GPU-a".into());
    let topology = Topology::new(&found);
    assert_eq!(topology.score("GPU-a", "GPU-b"), topology.score("GPU-b", "GPU-a"));
    assert_eq!(topology.score("GPU-a", "GPU-a"), 0);
    assert_eq!(topology.score("GPU-a", "GPU-c"), 0);
    topology.score("GPU-a", "GPU-b")
}

fn at(index: u32, numa: Option<u32>, path: &[&str]) -> Gpu {
    Gpu { numa, path: path.iter().map(|part| part.to_string()).collect(), ..gpu(index) }
}

#[test]
fn each_level_of_the_tree() {
    let switch = ["pci0000:17", "0000:17:01.0", "0000:18:00.0"];
    let below = |port: &'static str| at(0, Some(0), &[switch[0], switch[1], switch[2], port]);
    let other = |port: &'static str| at(1, Some(0), &[switch[0], switch[1], switch[2], port]);
    assert_eq!(score(below("0000:19:00.0"), other("0000:19:01.0")), SWITCH);
    let second = at(1, Some(0), &[switch[0], switch[1], switch[2], "0000:19:01.0", "0000:1b:00.0", "0000:1c:00.0"]);
    assert_eq!(score(below("0000:19:00.0"), second), SWITCHES);
    assert_eq!(score(below("0000:19:00.0"), at(1, Some(0), &["pci0000:17", "0000:17:02.0"])), HOST_BRIDGE);
    assert_eq!(score(below("0000:19:00.0"), at(1, Some(0), &["pci0000:3a", "0000:3a:01.0"])), SOCKET);
    assert_eq!(score(below("0000:19:00.0"), at(1, Some(1), &["pci0000:ae", "0000:ae:01.0"])), SYSTEM);
    // a VM: flat, and no node is known
    assert_eq!(
        score(at(0, None, &["pci0000:00", "0000:00:01.0"]), at(1, None, &["pci0000:00", "0000:00:02.0"])),
        HOST_BRIDGE
    );
    assert_eq!(score(at(0, None, &[]), at(1, None, &[])), SOCKET);
    let board = |index| Gpu { board: Some(7), ..at(index, Some(0), &switch) };
    assert_eq!(score(board(0), board(1)), BOARD);
}

#[test]
fn links_count_from_either_side_and_over_switches() {
    let linked = |index: u32, links: Vec<(Option<Bdf>, u32)>| Gpu { nvlinks: links, ..at(index, Some(0), &[]) };
    let to = |index: u32| Some(gpu(index).bdf);
    assert_eq!(score(linked(0, vec![(to(1), 2)]), linked(1, vec![(to(0), 2)])), SOCKET + 200);
    // one side alone tells it: no panic, and it counts
    assert_eq!(score(linked(0, vec![(to(1), 4)]), linked(1, vec![])), SOCKET + 400);
    assert_eq!(score(linked(0, vec![(to(3), 4)]), linked(1, vec![(to(3), 4)])), SOCKET);
    assert_eq!(score(linked(0, vec![(None, 18)]), linked(1, vec![(None, 12)])), SOCKET + 1200);
    assert_eq!(score(linked(0, vec![(None, 400)]), linked(1, vec![(None, 400)])), SOCKET + 1800);
}
