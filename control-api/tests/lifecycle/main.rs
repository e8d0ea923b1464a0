//! The real `control-api` and the life of what it signs: proven, issued, rotated, published.

mod support;

mod federation;
mod jwt_svid;
mod nack;
mod other_authority;
mod owners;
mod rotation;
mod watching;
