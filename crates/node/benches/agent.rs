//! The agent with eight simulated GPUs against the simulated kubelet, as a process: resident memory, start to registered,
//! registered again after the kubelet's restart, Allocate at 1,000 calls a second, the binary's size; each beside its limit.
//! `cargo bench -p thruway-node --bench agent` (a release build, root: the driver's nodes are made).
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "a bench makes its machine and runs the program"
)]

#[path = "../tests/agent/world.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod world;

use std::time::{Duration, Instant};

use kubelet::v1beta1::device_plugin_client::DevicePluginClient;
use kubelet::v1beta1::{AllocateRequest, ContainerAllocateRequest};
use rustix::process::Signal;
use simkube::api::{Account, Options, Rule, Server};
use world::{GPU, LONG, QUICK, World, percentile, run};

const MIB: f64 = 1024.0 * 1024.0;

fn main() {
    world::ahead_of_others();
    run(all());
}

fn line(what: &str, value: f64, limit: f64, unit: &str) {
    let said = if value <= limit { "within" } else { "OVER" };
    println!("{what:<58} {value:>9.3} {unit:<4} {said} the limit of {limit} {unit}");
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

async fn all() {
    let size = std::fs::metadata(env!("CARGO_BIN_EXE_thruway-node")).expect("the program").len();
    line("binary, stripped", size as f64 / 1e6, 10.0, "MB");
    let Some(mut world) = World::ready("h100x8", QUICK).await else { return };
    tokio::time::sleep(Duration::from_secs(5)).await;
    memory(&world, "resident, eight GPUs, at rest", 8.0);
    starts(&mut world).await;
    allocates(&world).await;
    restarts(&world).await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    memory(&world, "resident, eight GPUs, 12 s after the bursts", 8.0);
    drop(world);
    with_an_api().await;
}

/// The same with its labels held at the simulated API.
async fn with_an_api() {
    let rule = Rule::new(&["get", "watch", "patch"], "", &["nodes"]);
    let account = Account::pod("agent", "thruway", "node", "gpu-1", vec![rule]);
    let server = Server::start(vec![account], Options::default()).expect("a server");
    let metadata = serde_json::json!({"name": "gpu-1", "labels": {"kubernetes.io/os": "linux"}});
    server.put("kubelet", serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata}));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kubeconfig").display().to_string();
    std::fs::write(&path, server.kubeconfig("agent")).expect("writes");
    let Some(mut world) = World::new("h100x8", QUICK, &["--kubeconfig", &path, "--node-name", "gpu-1"]).await else {
        return;
    };
    world.start();
    world.well().await;
    let label = || server.get("Node", "", "gpu-1").is_some_and(|node| node.to_string().contains("gpu.present"));
    let until = Instant::now() + LONG;
    while !label() {
        assert!(Instant::now() < until, "no labels: {}", world.said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    memory(&world, "resident, eight GPUs, with the API's client", 12.0);
}

async fn starts(world: &mut World) {
    let mut took = Vec::new();
    for _ in 0..40 {
        world.end(Signal::TERM).await;
        world.kubelet.until(GPU, LONG, |it| !it.connected).await;
        let begun = world.start();
        assert!(world.kubelet.until_listed(GPU, LONG).await, "{}", world.said());
        took.push(world.kubelet.resource(GPU).and_then(|it| it.listed).expect("listed") - begun);
    }
    took.sort();
    line("start to registered and listed, median", milliseconds(percentile(&took, 50)), 20.0, "ms");
    line("start to registered and listed, p95", milliseconds(percentile(&took, 95)), 20.0, "ms");
    world.well().await;
}

async fn restarts(world: &World) {
    let mut took = Vec::new();
    for number in 0..200 {
        world.kubelet.restart(Duration::from_micros(number * 37 % 5000)).await.expect("a kubelet");
        assert!(world.kubelet.until_listed(GPU, LONG).await, "{}", world.said());
        let again = world.kubelet.resource(GPU).and_then(|it| it.registered).expect("registered");
        took.push(again - world.kubelet.appeared().expect("appeared"));
    }
    took.sort();
    line("kubelet's socket to registered again, median", milliseconds(percentile(&took, 50)), 10.0, "ms");
    line("kubelet's socket to registered again, p99 of 200", milliseconds(percentile(&took, 99)), 10.0, "ms");
}

async fn allocates(world: &World) {
    let ids: Vec<String> = world.kubelet.resource(GPU).expect("listed").healthy().into_iter().collect();
    let socket = world.kubelet.dir().join("thruway-gpu.sock");
    let mut client = DevicePluginClient::new(kubelet::socket::connect(socket, LONG).await.expect("the agent"));
    let mut took = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let begun = Instant::now();
    for number in 0..5000 {
        tick.tick().await;
        let ask = ContainerAllocateRequest { devices_ids: vec![ids[number % ids.len()].clone()] };
        let asked = Instant::now();
        client.allocate(AllocateRequest { container_requests: vec![ask] }).await.expect("a grant");
        took.push(asked.elapsed());
    }
    let rate = 5000.0 / begun.elapsed().as_secs_f64();
    took.sort();
    println!("Allocate at {rate:.0} calls a second:");
    let mut bare = Vec::new();
    for _ in 0..2000 {
        tick.tick().await;
        let asked = Instant::now();
        client.get_device_plugin_options(kubelet::v1beta1::Empty {}).await.expect("its options");
        bare.push(asked.elapsed());
    }
    bare.sort();
    let floor = |percent| milliseconds(percentile(&bare, percent));
    println!("  the floor, a call that does nothing: median {:.3}, p99 {:.3} ms", floor(50), floor(99));
    line("  median", milliseconds(percentile(&took, 50)), 0.3, "ms");
    line("  p99", milliseconds(percentile(&took, 99)), 0.3, "ms");
}

/// What the kernel says, and how much of it is the simulated library, which stands for NVIDIA's.
fn memory(world: &World, what: &str, limit: f64) {
    let id = world.agent.as_ref().expect("runs").id();
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{id}/{name}")).unwrap_or_default();
    let field = |text: &str, name: &str| -> f64 {
        let lines =
            text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next());
        lines.filter_map(|number| number.parse::<f64>().ok()).sum::<f64>() * 1024.0 / MIB
    };
    let status = read("status");
    let mut library = 0.0;
    let mut inside = false;
    for row in read("smaps").lines() {
        if row.split(' ').next().is_some_and(|range| range.contains('-')) {
            inside = row.contains("libnvidia-ml");
        } else if inside && row.starts_with("Rss:") {
            library += field(row, "Rss");
        }
    }
    let all = field(&status, "VmRSS");
    line(what, all, limit, "MiB");
    for name in ["RssAnon", "RssFile", "RssShmem"] {
        println!("  {name:<56} {:>9.3} MiB", field(&status, name));
    }
    println!("  {:<56} {library:>9.3} MiB", "of it the simulated libnvidia-ml");
}
