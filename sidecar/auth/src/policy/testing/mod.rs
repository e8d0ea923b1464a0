//! The oracle of differential tests: random policies and requests, and an interpreter that reads policies word for word.
//! Not part of the product: built for tests and with the feature `testing` only.

mod case;
mod oracle;
mod random;

pub use case::Case;
pub use random::Random;
