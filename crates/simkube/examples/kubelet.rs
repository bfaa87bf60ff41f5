//! A simulated kubelet at hand: device plugins register with it, and pods are admitted by a word.
//!
//!     cargo run -p thruway-simkube --example kubelet -- ROOT
//!
//! It serves ROOT/var/lib/kubelet/device-plugins/kubelet.sock and pod-resources, and reads orders from standard input, a line
//! each; every answer is one line of JSON:
//!
//!     list                         what the plugins offer: {"nvidia.com/gpu": {"healthy": ["GPU-…"], "unhealthy": []}}
//!     wait RESOURCE COUNT          until so many are healthy, 10 s at most
//!     admit POD RESOURCE COUNT     what a container gets, as the plugin answered
//!     forget POD                   the pod ended
//!     restart MILLISECONDS         gone for so long, the directory emptied, as the real one does
//!     appeared RESOURCE            until it is registered and listed again; microseconds since the socket appeared
#![allow(clippy::print_stdout, reason = "answers on standard output")]

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use simkube::kubelet::{Ask, Kubelet};

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::args_os().nth(1).ok_or("arguments: ROOT")?;
    let mut kubelet = Kubelet::start(Path::new(&root)).await?;
    println!("{}", json!({"simulated": "kubelet", "dir": kubelet.dir()}));
    let (orders, mut next) = tokio::sync::mpsc::unbounded_channel();
    // a thread of its own: the kubelet's sockets are served while nobody says anything
    std::thread::spawn(move || {
        std::io::stdin().lock().lines().map_while(Result::ok).all(|line| orders.send(line).is_ok())
    });
    while let Some(line) = next.recv().await {
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = order(&mut kubelet, &words).await;
        println!("{}", answer.unwrap_or_else(|error| json!({"error": error})));
        std::io::stdout().flush()?;
    }
    Ok(())
}

async fn order(kubelet: &mut Kubelet, words: &[&str]) -> Result<Value, String> {
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("{text} is no number"));
    match words {
        ["list"] => Ok(Value::Object(
            kubelet.resources().into_iter().map(|name| (name.clone(), offered(kubelet, &name))).collect(),
        )),
        ["wait", resource, count] => {
            let count = number(count)?;
            let there = kubelet.until(resource, PATIENCE, |known| known.healthy().len() == count).await;
            if there {
                Ok(offered(kubelet, resource))
            } else {
                Err(format!("{resource}: {}", offered(kubelet, resource)))
            }
        }
        ["admit", pod, resource, count] => {
            let grant =
                kubelet.admit(&Ask::new(pod, resource, number(count)?)).await.map_err(|refused| refused.to_string())?;
            let answer = &grant.answer;
            let cdi: Vec<&str> = answer.cdi_devices.iter().map(|device| device.name.as_str()).collect();
            let nodes: Vec<&str> = answer.devices.iter().map(|node| node.host_path.as_str()).collect();
            let mounts: Vec<&str> = answer.mounts.iter().map(|mount| mount.host_path.as_str()).collect();
            Ok(json!({"devices": grant.devices, "cdi": cdi, "env": answer.envs, "annotations": answer.annotations,
                      "nodes": nodes, "mounts": mounts}))
        }
        ["forget", pod] => {
            kubelet.forget(pod);
            Ok(json!({"forgotten": pod}))
        }
        ["restart", away] => {
            kubelet.restart(Duration::from_millis(number(away)? as u64)).await.map_err(|error| error.to_string())?;
            Ok(json!({"restarted": true}))
        }
        ["appeared", resource] => {
            let appeared = kubelet.appeared().ok_or("it is not there")?;
            if !kubelet.until_listed(resource, PATIENCE).await {
                return Err(format!("{resource} was not registered in {} s", PATIENCE.as_secs()));
            }
            let known = kubelet.resource(resource).unwrap_or_default();
            let since = |at: Option<Instant>| at.map(|at| at.duration_since(appeared).as_micros() as u64);
            Ok(json!({"registered_us": since(known.registered), "listed_us": since(known.listed)}))
        }
        _ => Err("orders: list, wait, admit, forget, restart, appeared".into()),
    }
}

fn offered(kubelet: &Kubelet, name: &str) -> Value {
    let known = kubelet.resource(name).unwrap_or_default();
    let healthy = known.healthy();
    let unhealthy: Vec<&String> = known.devices.keys().filter(|id| !healthy.contains(*id)).collect();
    json!({"healthy": healthy, "unhealthy": unhealthy})
}
