//! `thruway-node doctor`: why no GPU arrives in this node's pods, and who has the cards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gpu::{Holder, Inventory, Who};
use kube::why::{FORM, Grant, Here, Link, State, Use, links, ungranted};
use kubelet::podresources::ListPodResourcesRequest;
use kubelet::podresources::pod_resources_lister_client::PodResourcesListerClient;
use machine::{Machine, MachineExt as _};
use model::{Reason, Seen, Verdict};
use serde_json::{Value, json};

use super::cluster::{Way, runtime};
use super::preflight::asked;
use super::{DONE, FOUND, Ground, say};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pub way: Way,
    /// The kubelet's directory: /var/lib/k0s/kubelet on k0s
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    pub kubelet_dir: String,
    /// Only who uses which card: grants, open handles, VMs
    #[arg(long)]
    pub users: bool,
}

pub fn run(args: &Args, ground: &Ground) -> Result<u8, String> {
    let machine = ground.machine()?;
    let (asked, trouble) = asked(&args.way, &machine)?;
    let inventory = gpu::observe(&asked);
    let facts = kube::observe(&asked, &inventory);
    let here = here(args, ground, &asked, &inventory)?;
    let links = links(&facts, &here);
    let bypass = ungranted(&here);
    let findings = model::run_all(kube::CHECKS, &facts);
    let broken = links.iter().find(|link| link.state == State::Broken);
    let status = if broken.is_some() || !bypass.is_empty() { FOUND } else { DONE };
    if ground.global.json {
        let grants = here.grants.get();
        let wrong: Vec<Value> = findings
            .iter()
            .filter_map(|finding| match &finding.verdict {
                Verdict::Fail(trouble) => Some(json!({"id": finding.about.id, "weight": "fail", "says": trouble.says})),
                Verdict::Warn(trouble) => Some(json!({"id": finding.about.id, "weight": "warn", "says": trouble.says})),
                _ => None,
            })
            .collect();
        say(&format!(
            "{:#}\n",
            json!({
                "form": FORM, "node": facts.me.get(), "links": links, "first_broken": broken.map(|link| link.name),
                "grants": grants, "users": here.users, "without_grant": bypass, "findings": wrong, "api": trouble,
            })
        ));
        return Ok(status);
    }
    let mut text = String::new();
    if !args.users {
        text.push_str(&chain(&links));
        if let Some(trouble) = trouble.filter(|_| facts.nodes.get().is_none()) {
            text.push_str(&format!("\nThe cluster's API could not be asked: {trouble}\n"));
        }
        let wrong = findings.iter().filter(|f| matches!(f.verdict, Verdict::Fail(_) | Verdict::Warn(_))).count();
        if wrong > 0 {
            text.push_str(&format!(
                "\n{wrong} finding(s) in the cluster; see them with: thruway doctor --layer cluster\n"
            ));
        }
        text.push('\n');
    }
    text.push_str(&table(&here, &bypass));
    say(&text);
    Ok(status)
}

fn chain(links: &[Link]) -> String {
    let mut text = String::new();
    let wide = links.iter().map(|link| link.name.len()).max().unwrap_or(0);
    for link in links {
        let mark = match link.state {
            State::Holds => "●",
            State::Broken => "✗",
            State::Unknown => "?",
        };
        text.push_str(&format!("{mark} {:wide$}  {}\n", link.name, link.says));
    }
    match links.iter().find(|link| link.state == State::Broken) {
        None => text.push_str("\nNo link is broken that could be looked at.\n"),
        Some(first) => {
            text.push_str(&format!("\nThe first broken link: {}. {}.\n", first.name, capital(&first.says)));
            for fix in &first.fixes {
                text.push_str(&format!("  {}:\n", capital(&fix.does)));
                fix.paste.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
                fix.costs.iter().for_each(|cost| text.push_str(&format!("    Costs: {cost}\n")));
                text.push_str(&format!("    Back: {}\n", fix.undo));
            }
        }
    }
    text
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().collect::<String>() + letters.as_str()).unwrap_or_default()
}

fn table(here: &Here, bypass: &[&Use]) -> String {
    let mut text = String::new();
    for gpu in &here.found.gpus {
        let uuid = gpu.uuid.clone().unwrap_or_else(|| gpu.bdf.to_string());
        let kept = gpu.withheld.as_ref().map(|why| format!(", not for pods: {why}")).unwrap_or_default();
        text.push_str(&format!("{} {} {uuid}{kept}\n", gpu.bdf.short(), gpu.product));
        let mine = |device: &str| {
            let device = device.split("::").next().unwrap_or_default();
            device == uuid || gpu.parts.iter().any(|part| part.uuid.as_deref() == Some(device))
        };
        match &here.grants {
            Seen::Is(grants) => {
                for grant in grants.iter().filter(|grant| mine(&grant.device)) {
                    let device = if grant.device == uuid { String::new() } else { format!(" ({})", grant.device) };
                    text.push_str(&format!(
                        "  granted  {} {}, {}{device}\n",
                        grant.pod, grant.container, grant.resource
                    ));
                }
            }
            Seen::Absent => {}
            Seen::Unreadable(reason) => text.push_str(&format!("  granted  unknown: {reason}\n")),
        }
        for used in here.users.iter().filter(|used| used.card == uuid || used.card == gpu.bdf.to_string()) {
            let memory = used.memory.map(|mib| format!(", {mib} MiB")).unwrap_or_default();
            let past = if bypass.contains(&used) { "  ✗ without a grant" } else { "" };
            text.push_str(&format!("  used by  {}{memory}{past}\n", used.who));
        }
    }
    if here.found.gpus.is_empty() {
        text.push_str("No NVIDIA card is here.\n");
    }
    if let Some(first) = bypass.first() {
        text.push_str(&format!(
            "\n{} uses a card that the scheduler did not give: most often by NVIDIA_VISIBLE_DEVICES or a hostPath.\n  Let its \
             workload ask:\n    thruway kube patch deployment/NAME --gpus 1\n    Back: thruway undo\n  thruway's runtime \
             refuses such pods where its policy says pods = \"refuse\" (/etc/thruway/container.toml).\n",
            capital(&first.who)
        ));
    }
    text
}

fn here(args: &Args, ground: &Ground, machine: &dyn Machine, inventory: &Inventory) -> Result<Here, String> {
    let plugins = format!("{}/device-plugins", args.kubelet_dir.trim_end_matches('/'));
    let dirs = ["/etc/cdi".to_owned(), "/var/run/cdi".to_owned()];
    let (files, _) = cdi::read_dirs(machine, &dirs);
    let listed = cdi::list(&files).into_iter().filter(|device| device.conflict.is_none());
    let socket = ground.below(&format!("{}/pod-resources/kubelet.sock", args.kubelet_dir.trim_end_matches('/')));
    Ok(Here {
        found: kube::plugin::found::look(machine, inventory),
        cdi: listed.map(|device| device.name).collect::<BTreeSet<_>>(),
        sockets: machine.list(&plugins),
        registered: machine.text(&format!("{plugins}/kubelet_internal_checkpoint")).and_then(|text| registered(&text)),
        grants: match machine.stat(&format!("{}/pod-resources/kubelet.sock", args.kubelet_dir.trim_end_matches('/'))) {
            Seen::Is(_) => runtime()?.block_on(grants(socket)),
            Seen::Absent => Seen::Absent,
            Seen::Unreadable(reason) => Seen::Unreadable(reason),
        },
        users: users(machine, inventory),
    })
}

/// `{"Data":{"RegisteredDevices":{RESOURCE:[ID…]}}}` of kubelet_internal_checkpoint.
fn registered(text: &str) -> Seen<BTreeMap<String, Vec<String>>> {
    let bad = |why: String| Seen::Unreadable(Reason::Malformed(why));
    let whole: Value = match serde_json::from_str(text) {
        Ok(whole) => whole,
        Err(error) => return bad(format!("kubelet_internal_checkpoint: {error}")),
    };
    match whole.pointer("/Data/RegisteredDevices") {
        Some(Value::Null) => Seen::Is(BTreeMap::new()),
        Some(known) => match serde_json::from_value(known.clone()) {
            Ok(known) => Seen::Is(known),
            Err(error) => bad(format!("kubelet_internal_checkpoint: {error}")),
        },
        None => bad("kubelet_internal_checkpoint has no RegisteredDevices".into()),
    }
}

/// NVIDIA's devices that the kubelet gave to pods.
pub(crate) async fn grants(socket: std::path::PathBuf) -> Seen<Vec<Grant>> {
    let patience = Duration::from_secs(2);
    let unheard = |why: String| Seen::Unreadable(Reason::Other(why));
    let channel = match kubelet::socket::connect(socket, patience).await {
        Ok(channel) => channel,
        Err(error) => return unheard(format!("its socket does not answer: {error}")),
    };
    let answer = match PodResourcesListerClient::new(channel).list(ListPodResourcesRequest {}).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return unheard(status.message().to_owned()),
    };
    let mut all = Vec::new();
    for pod in answer.pod_resources {
        for container in pod.containers {
            for devices in
                container.devices.into_iter().filter(|devices| devices.resource_name.starts_with("nvidia.com/"))
            {
                all.extend(devices.device_ids.into_iter().map(|device| Grant {
                    pod: format!("{}/{}", pod.namespace, pod.name),
                    container: container.name.clone(),
                    resource: devices.resource_name.clone(),
                    device,
                }));
            }
        }
    }
    all.sort();
    Seen::Is(all)
}

pub(crate) fn users(machine: &dyn Machine, inventory: &Inventory) -> Vec<Use> {
    let mut all = Vec::new();
    let open = gpu::users(machine, inventory);
    for card in inventory.nvidia() {
        let bdf = card.identity.bdf;
        let name = card.identity.uuid.clone().unwrap_or_else(|| bdf.to_string());
        let report = inventory.nvml.get().and_then(|report| {
            report.gpus.iter().find(|gpu| gpu.uuid.get().is_some_and(|uuid| Some(uuid) == card.identity.uuid.as_ref()))
        });
        let memory = |pid: u32| {
            let processes = report.and_then(|gpu| gpu.processes.get()).into_iter().flatten();
            let bytes =
                processes.filter(|process| process.pid == pid).find_map(|process| process.memory.get().copied());
            bytes.map(|bytes| bytes >> 20)
        };
        for user in open.get(&bdf).into_iter().flat_map(|users| &users.processes) {
            let (pod, whom) = match &user.who {
                Who::Pod(name) => (Some(name.clone()), format!("pod {name}")),
                Who::Container(name) | Who::SystemContainer(name) => (None, format!("container {name}")),
                Who::Unit(name) | Who::Desktop(name) => (None, name.clone()),
                Who::Vm(name) => (None, format!("VM {name}")),
                Who::Process => (None, "no container".to_owned()),
            };
            let who = format!("{whom}, process {} {}", user.pid, user.name);
            all.push(Use { card: name.clone(), pod, who, memory: memory(user.pid) });
        }
        if let Holder::Vm(vms) = &card.holder {
            all.extend(vms.iter().map(|vm| Use {
                card: name.clone(),
                pod: None,
                who: format!("VM {vm}"),
                memory: None,
            }));
        }
    }
    all
}
