//! Lossless text and binary formats: bytes in, bytes out, no I/O. One file a format; every parser keeps what it does
//! not understand, gives file-independent errors with a line, and never panics.

pub mod aptsources;
pub mod bootentries;
pub mod cdispec;
pub mod containerdtoml;
pub mod daemonjson;
pub mod domxml;
pub mod dpkg;
pub mod efistore;
pub mod efivar;
pub mod elfso;
pub mod encodingxml;
pub mod hint;
pub mod kcmdline;
pub mod ldsocache;
pub mod migparted;
pub mod modprobe;
pub mod modules;
pub mod netroute;
pub mod pciids;
pub mod propstr;
pub mod pveconf;
pub mod pvesections;
pub mod qcow2;
pub mod qemuargs;
pub mod quantity;
pub mod runfile;
pub mod shellvars;
pub mod smbios;
pub mod smi_xml;
pub mod yamlin;
pub mod yamlout;
