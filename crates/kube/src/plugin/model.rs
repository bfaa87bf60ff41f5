//! Random histories of a node against a model: a kubelet that grants, frees, follows the plugin's wish or not, while cards
//! fall ill and are given to VMs. No device is ever given twice, and a container gets what was granted and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use model::Seen;

use super::config::{Replicate, Replicated, Sharing};
use super::fixtures::{cut, found, gpu};
use super::random::Random;
use super::{
    Answer, Config, Device, Found, ListStrategy, Live, MigStrategy, Offer, Present, SharedPolicy, Topology, allocate,
    health, offer, prefer,
};

/// A node and how it is offered.
struct Node {
    config: Config,
    found: Found,
    offer: Offer,
    topology: Topology,
}

fn node(config: Config, found: Found) -> Node {
    let both = [ListStrategy::CdiCri, ListStrategy::Envvar].into();
    let config = Config { list: both, pass_device_specs: true, ..config };
    let offer = offer(&config, &found).expect("an offer");
    Node { topology: Topology::new(&found), offer, config, found }
}

fn sliced(name: &str, rename: Option<&str>, devices: Replicate, replicas: u32) -> Option<Sharing> {
    let one = Replicated { name: name.into(), rename: rename.map(str::to_owned), devices, replicas };
    Some(Sharing { resources: vec![one], ..Sharing::default() })
}

/// Sixteen whole cards; two of four shared; cut and whole ones together; all cut and each part shared.
fn nodes() -> [Node; 4] {
    let linked = |index: u32| {
        let near = (index / 2 * 2..index / 2 * 2 + 2).filter(|other| *other != index);
        super::Gpu { nvlinks: near.map(|other| (Some(gpu(other).bdf), 4)).collect(), ..gpu(index) }
    };
    let list = Replicate::List(vec!["0".into(), "2".into()]);
    let mixed = (0..8)
        .map(|index| if index % 2 == 0 { gpu(index) } else { cut(index, &["1g.5gb", "1g.5gb", "2g.10gb", "3g.20gb"]) });
    [
        node(Config::default(), found((0..16).map(linked).collect())),
        node(
            Config { sharing: sliced("nvidia.com/gpu", Some("nvidia.com/slice"), list, 4), ..Config::default() },
            found((0..4).map(gpu).collect()),
        ),
        node(Config { mig: MigStrategy::Mixed, ..Config::default() }, found(mixed.collect())),
        node(
            Config {
                mig: MigStrategy::Single,
                sharing: sliced("nvidia.com/gpu", None, Replicate::All, 3),
                shared_policy: SharedPolicy::Packed,
                ..Config::default()
            },
            found((0..3).map(|index| cut(index, &["1g.5gb"; 7])).collect()),
        ),
    ]
}

/// Cards that went to a VM since they were offered.
struct World<'w>(&'w BTreeSet<String>);

impl Present for World<'_> {
    fn live(&self, device: &Device) -> Live {
        let driver = if self.0.contains(&device.gpu) { "vfio-pci" } else { "nvidia" };
        Live { driver: Seen::Is(driver.into()), uuid: Seen::Is(device.gpu.clone()), missing: None, promised: None }
    }

    fn resolves(&self, name: &str) -> Seen<bool> {
        Seen::Is(name.starts_with("nvidia.com/gpu=") && !name.ends_with("=all"))
    }
}

/// What the model knows of a device: worked out from the found cards and the id alone, not from the offer.
struct Unit {
    uuid: String,
    gpu: String,
    whole: bool,
    nodes: Vec<String>,
}

fn unit(found: &Found, id: &str) -> Unit {
    let uuid = id.split("::").next().unwrap_or_default().to_owned();
    for gpu in &found.gpus {
        let own = gpu.uuid.clone().unwrap_or_default();
        let card = format!("/dev/nvidia{}", gpu.index);
        if own == uuid {
            return Unit { whole: true, gpu: own, nodes: vec![card], uuid };
        }
        if let Some(part) = gpu.parts.iter().find(|part| part.uuid.as_ref() == Some(&uuid)) {
            return Unit { whole: false, gpu: own, nodes: [vec![card], part.nodes.clone()].concat(), uuid };
        }
    }
    panic!("{id} is of no card")
}

#[derive(Default)]
struct Counts {
    grants: u64,
    refusals: u64,
    frees: u64,
    full: u64,
}

/// Devices of a pod, by id.
type Pods = Vec<Vec<String>>;

/// No device twice; a card is whole or in parts; no more grants of a thing than it has replicas.
fn no_conflict(node: &Node, pods: &Pods) {
    let mut held = BTreeSet::new();
    let (mut whole, mut parts, mut grants) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::<String, u32>::new());
    for id in pods.iter().flatten() {
        assert!(held.insert(id), "{id} is given twice");
        let unit = unit(&node.found, id);
        if unit.whole {
            whole.insert(unit.gpu)
        } else {
            parts.insert(unit.gpu)
        };
        *grants.entry(unit.uuid.clone()).or_default() += 1;
        let shared = id.contains("::");
        let most = match &node.config.sharing {
            Some(sharing) if shared => sharing.resources[0].replicas,
            _ => 1,
        };
        assert!(grants[&unit.uuid] <= most, "{} is given more than {most} times", unit.uuid);
    }
    assert!(whole.is_disjoint(&parts), "a card is given whole and in parts");
}

/// The answer names what was granted, and nothing else.
fn is_of(node: &Node, ids: &[String], answer: &Answer) {
    let units: Vec<Unit> = ids.iter().map(|id| unit(&node.found, id)).collect();
    let wanted: BTreeSet<String> = units.iter().map(|unit| format!("nvidia.com/gpu={}", unit.uuid)).collect();
    assert_eq!(answer.cdi.iter().cloned().collect::<BTreeSet<_>>(), wanted);
    assert_eq!(answer.cdi.len(), wanted.len());
    let visible: BTreeSet<&str> = answer.envs["NVIDIA_VISIBLE_DEVICES"].split(',').collect();
    assert_eq!(visible, units.iter().map(|unit| unit.uuid.as_str()).collect());
    let nodes: BTreeSet<&str> = answer.devices.iter().map(|node| node.host_path.as_str()).collect();
    let own = units.iter().flat_map(|unit| &unit.nodes).chain(&node.found.control);
    assert_eq!(nodes, own.map(String::as_str).collect());
}

/// One history of a node.
fn history(node: &Node, random: &mut Random, steps: usize, counts: &mut Counts) {
    let cards: Vec<String> = node.found.gpus.iter().filter_map(|gpu| gpu.uuid.clone()).collect();
    let mut tracker = health::Tracker::new(health::Rules::default());
    tracker.know(&cards);
    let (mut pods, mut gone, mut now): (Pods, BTreeSet<String>, u64) = (Vec::new(), BTreeSet::new(), 0);
    for _ in 0..steps {
        now += 1_000;
        let card = &cards[random.below(cards.len())];
        match random.below(10) {
            0..=5 => grant(node, random, &tracker, &gone, &mut pods, counts),
            6 | 7 if !pods.is_empty() => {
                pods.swap_remove(random.below(pods.len()));
                counts.frees += 1;
            }
            8 => drop(tracker.hear(&health::Event::Xid { gpu: Some(card.clone()), number: 79 }, now)),
            9 if random.below(2) == 0 => drop(gone.insert(card.clone())),
            _ => {
                gone.clear();
                tracker.hear(&health::Event::Renewed { gpu: card.clone() }, now);
            }
        }
        no_conflict(node, &pods);
    }
}

fn grant(
    node: &Node,
    random: &mut Random,
    tracker: &health::Tracker,
    gone: &BTreeSet<String>,
    pods: &mut Pods,
    counts: &mut Counts,
) {
    let resource = &node.offer.resources[random.below(node.offer.resources.len())];
    let held: BTreeSet<&String> = pods.iter().flatten().collect();
    let free = resource.devices.iter().filter(|device| tracker.healthy(&device.gpu, &device.uuid));
    let mut free: Vec<String> = free.map(|device| device.id.clone()).filter(|id| !held.contains(id)).collect();
    let size = [1, 1, 1, 2, 2, 4, 8][random.below(7)];
    if size > free.len() {
        counts.full += 1;
        return;
    }
    random.shuffle(&mut free);
    let must: Vec<String> = free.iter().take(random.below(3).min(size) * random.below(2)).cloned().collect();
    let ids = if random.below(5) == 0 {
        // the kubelet's own choice
        free[..size].to_vec()
    } else {
        let ids = prefer(resource, &node.topology, node.config.shared_policy, &free, &must, size).expect("chosen");
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), size);
        assert!(ids.iter().all(|id| free.contains(id)) && must.iter().all(|id| ids.contains(id)), "{ids:?}");
        ids
    };
    let lost = ids.iter().any(|id| gone.contains(&unit(&node.found, id).gpu));
    match allocate(&node.config, &node.found, resource, &ids, "a1", &World(gone)) {
        Ok(answer) => {
            assert!(!lost, "a VM's card was given");
            is_of(node, &ids, &answer);
            pods.push(ids);
            counts.grants += 1;
        }
        Err(refusal) => {
            assert!(lost, "{refusal}");
            counts.refusals += 1;
        }
    }
}

fn histories(each: [u64; 4], steps: usize) -> Counts {
    let mut counts = Counts::default();
    for (node, count) in nodes().iter().zip(each) {
        for seed in 0..count {
            history(node, &mut Random::new(seed), steps, &mut counts);
        }
    }
    counts
}

fn show(sequences: u64, counts: &Counts) {
    let Counts { grants, refusals, frees, full } = counts;
    println!(
        "{sequences} histories: {grants} grants, {refusals} refused, {frees} freed, {full} times too few were free; none twice"
    );
    assert!(*grants > sequences && *refusals > 0 && *frees > 0 && *full > 0);
}

#[test]
fn no_device_is_given_twice() {
    show(620, &histories([20, 200, 200, 200], 24));
}

#[test]
#[ignore = "a minute and more, optimised"]
fn no_device_is_given_twice_in_100_000_histories() {
    show(100_000, &histories([25_000; 4], 24));
}

/// The offer itself: no card whole in one resource and in parts in another, no id twice, every id within the kubelet's bound.
#[test]
fn what_is_offered_is_offered_once() {
    for node in nodes() {
        let mut ids = BTreeSet::new();
        let all: Vec<&Device> = node.offer.resources.iter().flat_map(|resource| &resource.devices).collect();
        for device in &all {
            assert!(ids.insert(&device.id) && device.id.len() <= 63 && !device.cdi_name.ends_with("=all"));
            let whole = device.uuid == device.gpu;
            assert!(all.iter().all(|other| other.gpu != device.gpu || (other.uuid == other.gpu) == whole));
        }
    }
}
