//! What policy looks at: a connection, and a request on it.

use std::net::IpAddr;

use http::{HeaderMap, Method};

use crate::SpiffeId;
use crate::token::VerifiedToken;

/// What is known of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// The verified peer; `None` for plaintext.
    pub peer: Option<&'a SpiffeId>,
    /// Source address; IPv4-mapped IPv6 is taken as IPv4.
    pub source_ip: IpAddr,
    /// Address of the workload at which the connection arrived.
    pub destination_ip: IpAddr,
    /// Application port.
    pub destination_port: u16,
    /// Server name of the client's TLS; `None` without one.
    pub sni: Option<&'a str>,
}

/// What is known of an HTTP request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The connection it came on.
    pub connection: Connection<'a>,
    /// Method.
    pub method: &'a Method,
    /// Authority as the request named it, with the port if it had one. Any case.
    pub host: &'a str,
    /// Path without query, as [`crate::path`] normalizes it: exactly what the application will get.
    pub path: &'a str,
    /// Headers, reserved ones removed.
    pub headers: &'a HeaderMap,
    /// The verified token; `None` without one.
    pub token: Option<&'a VerifiedToken>,
}
