//! What the simulated driver libraries say, as data: cards, boxes of cards, and the control file over them. One source of
//! a card's facts for libnvidia-ml, libcuda, libnvcuvid and libnvidia-encode alike.
//!
//! It exports no C symbol: each library that links it shows its own functions and nothing else.

pub mod abi;
pub mod branch;
pub mod card;
pub mod elf;
pub mod eye;
pub mod install;
pub mod kept;
pub mod neighbour;
pub mod place;
pub mod symbols;
pub mod video;
pub mod view;
