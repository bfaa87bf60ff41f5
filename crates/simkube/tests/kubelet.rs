//! The simulated kubelet refuses what the real one refuses, and remembers what it remembers.
#![allow(clippy::disallowed_methods, reason = "tests look at what lies in the directory")]

use std::time::Duration;

use kubelet::podresources::pod_resources_lister_client::PodResourcesListerClient;
use kubelet::podresources::{AllocatableResourcesRequest, ListPodResourcesRequest};
use simkube::kubelet::{Ask, CHECKPOINT, Kubelet, Manners, extended_resource};
use simkube::plugin::Plugin;

const LONG: Duration = Duration::from_secs(20);
const NAME: &str = "acme.com/thing";

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a loop").block_on(test);
}

#[test]
fn names_are_those_of_extended_resources() {
    for good in ["nvidia.com/gpu", "nvidia.com/mig-1g.5gb.me", "acme.com/GPU_1"] {
        assert_eq!(extended_resource(good), Ok(()), "{good}");
    }
    let long = format!("nvidia.com/{}", "a".repeat(64));
    for bad in
        ["gpu", "cpu", "kubernetes.io/gpu", "x.kubernetes.io/gpu", "requests.nvidia.com/gpu", "nvidia.com/", &long]
            .into_iter()
            .chain(["nvidia.com/-gpu", "nvidia.com/a b", "NVIDIA.com/gpu", "nvidia..com/gpu", "/gpu"])
    {
        assert!(extended_resource(bad).is_err(), "{bad}");
    }
}

#[test]
fn registrations_that_are_wrong_are_refused() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::start(folder.path()).await.unwrap();
        let plugin = Plugin::start(kubelet.dir(), "acme.sock", &["a"]).await.unwrap();
        let said = plugin.register("v1alpha", NAME).await.unwrap_err();
        assert!(said.message().contains("requested API version \"v1alpha\" is not supported"), "{said}");
        assert!(plugin.register("v1beta1", "gpu").await.unwrap_err().message().contains("is invalid"));
        // nobody serves there
        let dead = Plugin::start(kubelet.dir(), "dead.sock", &[]).await.unwrap();
        std::fs::remove_file(kubelet.dir().join("dead.sock")).unwrap();
        assert!(dead.register("v1beta1", NAME).await.unwrap_err().message().contains("cannot dial"));
        kubelet.set_manners(Manners::Speaks("v2".into()));
        assert!(plugin.register("v1beta1", NAME).await.is_err());
        assert_eq!((kubelet.refused().len(), kubelet.resources().len()), (4, 0));
    });
}

#[test]
fn ids_that_are_too_long_are_not_taken() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::start(folder.path()).await.unwrap();
        let plugin = Plugin::start(kubelet.dir(), "acme.sock", &["a", &"x".repeat(64)]).await.unwrap();
        plugin.register("v1beta1", NAME).await.unwrap();
        assert!(kubelet.until(NAME, LONG, |it| it.connected).await);
        for _ in 0..2000 {
            if !kubelet.refused().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(kubelet.refused()[0].contains("63 characters"), "{:?}", kubelet.refused());
        assert_eq!(kubelet.resource(NAME).unwrap().counts(), (0, 0));
    });
}

#[test]
fn pods_are_admitted_refused_and_remembered() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::start(folder.path()).await.unwrap();
        let unknown = kubelet.admit(&Ask::new("pod", NAME, 1)).await.unwrap_err();
        assert_eq!(unknown.0, "can't allocate unregistered device acme.com/thing");
        let plugin = Plugin::start(kubelet.dir(), "acme.sock", &["a", "b", "c"]).await.unwrap();
        plugin.register("v1beta1", NAME).await.unwrap();
        assert!(kubelet.until_listed(NAME, LONG).await);
        let grant = kubelet.admit(&Ask::new("pod", NAME, 2)).await.unwrap();
        let many = kubelet.admit(&Ask::new("other", NAME, 2)).await.unwrap_err();
        assert_eq!(many.0, "requested number of devices unavailable for acme.com/thing. Requested: 2, Available: 1");
        let changed = kubelet.admit(&Ask::new("pod", NAME, 1)).await.unwrap_err();
        assert!(changed.0.contains("changed request"), "{changed}");
        // the same pod again is given the same
        assert_eq!(kubelet.admit(&Ask::new("pod", NAME, 2)).await.unwrap(), grant);
        let channel = kubelet::socket::connect(folder.path().join(&kubelet::POD_RESOURCES[1..]), LONG).await.unwrap();
        let mut pods = PodResourcesListerClient::new(channel);
        let list = pods.list(ListPodResourcesRequest {}).await.unwrap().into_inner().pod_resources;
        assert_eq!(list[0].containers[0].devices[0].device_ids, grant.devices);
        let all = pods.get_allocatable_resources(AllocatableResourcesRequest {}).await.unwrap().into_inner().devices;
        assert_eq!(all.len(), 3);
        // a restart: the socket of the plugin is deleted, its grants are not forgotten, and are no good without it
        let text = std::fs::read_to_string(kubelet.dir().join(CHECKPOINT)).unwrap();
        assert!(text.contains("\"PodUID\":\"pod\"") && text.contains("\"RegisteredDevices\""), "{text}");
        kubelet.restart(Duration::ZERO).await.unwrap();
        assert!(!kubelet.dir().join("acme.sock").exists());
        assert_eq!(kubelet.grants(), [grant]);
        assert_eq!(kubelet.resource(NAME).unwrap().counts(), (3, 0));
        let early = kubelet.admit(&Ask::new("pod", NAME, 2)).await.unwrap_err();
        assert!(early.0.contains("no healthy devices present"), "{early}");
        kubelet.forget("pod");
        assert!(kubelet.grants().is_empty() && kubelet.given_twice().is_empty());
    });
}

#[test]
fn the_newest_registration_wins_and_an_end_makes_all_unhealthy() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::start(folder.path()).await.unwrap();
        let first = Plugin::start(kubelet.dir(), "first.sock", &["a"]).await.unwrap();
        first.register("v1beta1", NAME).await.unwrap();
        let second = Plugin::start(kubelet.dir(), "second.sock", &["b", "c"]).await.unwrap();
        second.register("v1beta1", NAME).await.unwrap();
        assert!(kubelet.until(NAME, LONG, |it| it.endpoint == "second.sock" && it.counts() == (2, 2)).await);
        drop(first);
        drop(second);
        assert!(kubelet.until(NAME, LONG, |it| it.counts() == (2, 0) && !it.connected).await);
    });
}
