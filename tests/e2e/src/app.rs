//! An application that records the heads of requests and answers as a test says.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;

/// A request as it reached the application: the head, and the stream behind it.
#[derive(Debug)]
pub struct Arrived {
    /// Request line and fields, as they were sent.
    pub head: String,
    /// What follows the head.
    pub stream: BufReader<TcpStream>,
}

impl Arrived {
    /// Value of a field, if it is there once.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        super::http::field(&self.head, name)
    }
}

/// The application.
#[derive(Debug)]
pub struct App {
    /// Where it listens.
    pub address: SocketAddr,
    /// Heads of everything that arrived.
    pub heads: mpsc::Receiver<String>,
}

impl App {
    /// Answers every request with `answer`, one request for each connection.
    #[must_use]
    pub fn start(answer: impl Fn(Arrived) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, heads) = mpsc::channel();
        let answer = std::sync::Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (sender, answer) = (sender.clone(), std::sync::Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        if stream.read_line(&mut head).unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    sender.send(head.clone()).ok();
                    answer(Arrived { head, stream });
                });
            }
        });
        Self { address, heads }
    }
}
