//! The cluster floor from the API's answers to plans and back.

mod api;
mod checks;
mod hostile;
mod patch;
mod place;
mod plans;
mod world;
