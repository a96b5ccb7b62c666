//! The proof of the director: what it must do, and whether it does.

pub mod reference;
pub mod watched;
