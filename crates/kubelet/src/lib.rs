//! The kubelet's sockets: messages, clients and servers of the device plugin API (v1beta1) and of pod-resources (v1).
//!
//! gRPC over unix sockets with no TLS and no login: the directory's permissions are the boundary. `proto/` is written from
//! the public specification; `generated/` is made from it by `cargo run -p thruway-kubelet --example generate`.

pub mod socket;

#[rustfmt::skip]
#[allow(clippy::all, unused_qualifications, reason = "generated")]
#[path = "generated/v1beta1.rs"]
pub mod v1beta1;

#[rustfmt::skip]
#[allow(clippy::all, unused_qualifications, reason = "generated")]
#[path = "generated/v1.rs"]
pub mod podresources;

/// The version that a plugin names at its registration.
pub const VERSION: &str = "v1beta1";
/// Where plugins and the kubelet have their sockets.
pub const PLUGINS: &str = "/var/lib/kubelet/device-plugins";
/// The kubelet's own socket there.
pub const KUBELET_SOCKET: &str = "kubelet.sock";
/// Which pod holds which device, as the kubelet tells it.
pub const POD_RESOURCES: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";
/// The kubelet's words for a device's health.
pub const HEALTHY: &str = "Healthy";
pub const UNHEALTHY: &str = "Unhealthy";
