//! Whether workloads ask for what they use.

use model::{Fix, Reason, Trouble, Verdict};

use super::{Outcome, need, planned, shown};
use crate::Facts;
use crate::objects::{Container, Env, PodSpec, Workload};

/// One thing that runs pods: a Deployment, or a pod that no listed controller owns.
struct Load<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    pod: &'a PodSpec,
}

impl Load<'_> {
    fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn source(&self) -> model::Source {
        shown(self.kind, self.namespace, self.name)
    }
}

/// Deployments, and pods that belong to neither a Deployment (through its ReplicaSet) nor a DaemonSet. DaemonSets are
/// left out: agents such as exporters and the plugin itself see every GPU by design.
fn loads(facts: &Facts) -> Result<Vec<Load<'_>>, Verdict> {
    let deployments = need(facts, &facts.deployments)?;
    let pods = need(facts, &facts.pods)?;
    let mut loads: Vec<Load> = deployments
        .iter()
        .map(|d| Load { kind: "deployment", namespace: &d.namespace, name: &d.name, pod: &d.pod })
        .collect();
    let owned = |owner: &Option<String>| {
        owner.as_deref().is_some_and(|owner| owner.starts_with("ReplicaSet/") || owner.starts_with("DaemonSet/"))
    };
    let own = pods.iter().filter(|pod| !owned(&pod.owner) && !["Succeeded", "Failed"].contains(&pod.phase.as_str()));
    loads.extend(own.map(|p| Load { kind: "pod", namespace: &p.namespace, name: &p.name, pod: &p.pod }));
    loads.retain(|load| !load.pod.is_plugin());
    Ok(loads)
}

fn uses_gpu(pod: &PodSpec) -> bool {
    pod.gpus() > 0 || pod.containers.iter().any(|container| container.takes_by_env().is_some())
}

pub fn visible(facts: &Facts) -> Outcome {
    let loads = loads(facts)?;
    if !loads.iter().any(|load| uses_gpu(load.pod)) {
        return Err(Verdict::NotApplicable);
    }
    let taking: Vec<(&Load, &Container, &str)> = loads
        .iter()
        .flat_map(|load| load.pod.containers.iter().map(move |container| (load, container)))
        .filter_map(|(load, container)| container.takes_by_env().map(|value| (load, container, value)))
        .collect();
    let Some((load, container, value)) = taking.first() else { return Ok(Verdict::Pass) };
    let what = if *value == "all" { "every GPU of its node".to_owned() } else { format!("the GPU {value}") };
    let mut trouble = Trouble::new(format!(
        "{} takes {what} by NVIDIA_VISIBLE_DEVICES={value}, past the scheduler's grant",
        load.full_name()
    ));
    for (load, container, value) in &taking {
        let asks = match container.gpus() {
            0 => "no nvidia.com limit".to_owned(),
            n => format!("nvidia.com limits: {n}"),
        };
        let line = format!("container {}: NVIDIA_VISIBLE_DEVICES={value}, {asks}", container.name);
        trouble = trouble.seen(load.source(), line);
    }
    let fix = if load.kind == "deployment" {
        let command = format!("thruway kube plan --deployment {}", load.full_name());
        Fix::planned("ask for nvidia.com/gpu: 1 and leave the variable to the device plugin", command)
            .costs("its pods are started anew, and wait where no GPU is free")
    } else {
        let paste = ["resources: {limits: {nvidia.com/gpu: \"1\"}}"];
        let does =
            format!("in {}'s manifest drop the variable from container {} and ask", load.full_name(), container.name);
        Fix::by_hand(does, &paste, "apply the old manifest").costs("a pod must be deleted and made again")
    };
    Ok(Verdict::Warn(trouble.fix(fix)))
}

pub fn no_request(facts: &Facts) -> Outcome {
    let loads = loads(facts)?;
    let sent: Vec<&Load> = loads.iter().filter(|load| !load.pod.gpu_selection().is_empty()).collect();
    if sent.is_empty() && !loads.iter().any(|load| load.pod.gpus() > 0) {
        return Err(Verdict::NotApplicable);
    }
    let Some(load) = sent.iter().find(|load| load.pod.gpus() == 0) else { return Ok(Verdict::Pass) };
    let selection = load.pod.gpu_selection().join(", ");
    let trouble =
        Trouble::new(format!("{} is sent to a GPU node by {selection}, and asks for no GPU", load.full_name()))
            .seen(load.source(), selection)
            .seen(load.source(), "resources.limits: no nvidia.com entry");
    let fix = if load.kind == "deployment" {
        let command = format!("thruway kube plan --deployment {}", load.full_name());
        Fix::planned("ask for nvidia.com/gpu: 1", command).costs("its pods are started anew")
    } else {
        planned("see what else goes round the grant")
    };
    Ok(Verdict::Warn(trouble.fix(fix)))
}

pub fn host_path(facts: &Facts) -> Outcome {
    let loads = loads(facts)?;
    let device = |path: &&String| path.starts_with("/dev/nvidia");
    let by_path = |load: &&Load| load.pod.host_paths.iter().any(|path| device(&path));
    let by_privilege = |load: &&Load| {
        let whole = load.pod.host_paths.iter().any(|path| path.trim_end_matches('/') == "/dev");
        let privileged = load.pod.containers.iter().any(|container| container.privileged);
        privileged && load.pod.gpus() == 0 && (whole || load.pod.runtime_class.as_deref() == Some("nvidia"))
    };
    let Some(load) = loads.iter().find(|load| by_path(load) || by_privilege(load)) else {
        return if loads.iter().any(|load| uses_gpu(load.pod)) {
            Ok(Verdict::Pass)
        } else {
            Err(Verdict::NotApplicable)
        };
    };
    let paths: Vec<&str> = load.pod.host_paths.iter().filter(device).map(String::as_str).collect();
    let how =
        if paths.is_empty() { "a privileged container".to_owned() } else { format!("hostPath {}", paths.join(", ")) };
    let trouble =
        Trouble::new(format!("{} reaches the GPU by {how}, with no grant of the scheduler", load.full_name()))
            .seen(load.source(), how)
            .fix(Fix::by_hand(
                "drop the volumes and the privilege, and ask for the GPU",
                &["resources: {limits: {nvidia.com/gpu: \"1\"}}"],
                "apply the old manifest",
            ));
    Ok(Verdict::Warn(trouble))
}

/// Programs that decode and encode; by image or container name.
const MEDIA: [&str; 8] = ["jellyfin", "plex", "emby", "frigate", "ffmpeg", "tdarr", "unmanic", "handbrake"];

pub fn video(facts: &Facts) -> Outcome {
    let loads = loads(facts)?;
    let mut any = false;
    for load in &loads {
        for container in &load.pod.containers {
            let media = MEDIA.iter().any(|name| container.image.contains(name) || container.name.contains(name));
            if !media || (container.gpus() == 0 && container.takes_by_env().is_none()) {
                continue;
            }
            any = true;
            let value = match container.env.get("NVIDIA_DRIVER_CAPABILITIES") {
                Some(Env::Text(text)) if text.split(',').any(|word| ["all", "video"].contains(&word.trim())) => {
                    continue;
                }
                Some(Env::Text(text)) => format!("NVIDIA_DRIVER_CAPABILITIES={text}"),
                Some(Env::From) => {
                    return Err(Verdict::Unknown {
                        reason: Reason::Other("the value comes from another object".into()),
                        what: format!("NVIDIA_DRIVER_CAPABILITIES of {}", load.full_name()),
                    });
                }
                None => "NVIDIA_DRIVER_CAPABILITIES is not set (utility,compute unless the image sets it)".to_owned(),
            };
            let set = format!(
                "kubectl set env {} --namespace={} {} --containers={} NVIDIA_DRIVER_CAPABILITIES=compute,video,utility",
                load.kind, load.namespace, load.name, container.name
            );
            let trouble = Trouble::new(format!(
                "container {} of {} gets the GPU without its video libraries, so nothing is decoded or encoded on it",
                container.name,
                load.full_name()
            ))
            .seen(load.source(), value)
            .fix(
                Fix::by_hand("add the video capability", &[&set], "set the old value again")
                    .costs("its pods are started anew"),
            );
            return Ok(Verdict::Fail(trouble));
        }
    }
    if any { Ok(Verdict::Pass) } else { Err(Verdict::NotApplicable) }
}

/// True where an update of this Deployment would wait for GPUs that its own old pods hold. `offered` is the sum of the
/// cluster's GPUs; 0 is not known.
pub(crate) fn deadlocks(deployment: &Workload, gpus_a_pod: u64, offered: u64) -> bool {
    let replicas = u64::try_from(deployment.replicas).unwrap_or(0);
    let surge = deployment.raw.pointer("/spec/strategy/rollingUpdate");
    let pointer = |key: &str| surge.and_then(|surge| surge.get(key));
    // Zero surge or one pod that may be missing lets an old pod go first.
    let zero = pointer("maxSurge").is_some_and(|value| *value == 0 || *value == "0%" || *value == "0");
    let spare = match pointer("maxUnavailable") {
        Some(value) if value.as_u64().is_some() => value.as_u64() >= Some(1),
        Some(value) => {
            let percent =
                value.as_str().and_then(|text| text.strip_suffix('%')).and_then(|text| text.parse::<u64>().ok());
            percent.is_some_and(|percent| percent.saturating_mul(replicas) >= 100)
        }
        None => replicas >= 4,
    };
    deployment.strategy == "RollingUpdate"
        && replicas > 0
        && gpus_a_pod > 0
        && offered > 0
        && !zero
        && !spare
        && replicas.saturating_mul(gpus_a_pod).saturating_add(gpus_a_pod) > offered
}

pub fn rollout(facts: &Facts) -> Outcome {
    let deployments = need(facts, &facts.deployments)?;
    let nodes = need(facts, &facts.nodes)?;
    let offered = nodes.iter().fold(0u64, |sum, node| sum.saturating_add(facts.offers(node)));
    let users: Vec<&Workload> = deployments.iter().filter(|deployment| deployment.pod.gpus() > 0).collect();
    if users.is_empty() || offered == 0 {
        return Err(Verdict::NotApplicable);
    }
    let Some(stuck) = users.iter().find(|user| deadlocks(user, user.pod.gpus(), offered)) else {
        return Ok(Verdict::Pass);
    };
    let source = shown("deployment", &stuck.namespace, &stuck.name);
    let trouble = Trouble::new(format!(
        "{} can never be updated: its new pod waits for a GPU that its old pod holds until the new one runs",
        stuck.full_name()
    ))
    .seen(
        source.clone(),
        format!("{} replica(s) of {} GPU(s), strategy RollingUpdate", stuck.replicas, stuck.pod.gpus()),
    )
    .seen(facts.nodes.source.clone(), format!("{offered} GPU(s) in the cluster"));
    let command = format!("thruway kube plan --deployment {}", stuck.full_name());
    let fix =
        Fix::planned("stop the old pod first (strategy Recreate)", command).costs("it is away for the time of a start");
    Ok(Verdict::Warn(trouble.fix(fix)))
}
