//! HTTP as the hot path moves it: heads are admitted once, bodies flow through bounded pumps.

pub mod admit;
pub mod answer;
pub mod body;
mod bulk;
pub mod carried;
pub mod ending;
pub mod forward;
pub mod gather;
pub mod h1;
pub mod h1_server;
pub mod h2;
pub mod h2_server;
pub mod unsent;
pub mod upstream;
pub mod websocket;
