//! What workers leave for the control thread: bounded, and never waited for.

use tokio::sync::{Mutex, mpsc};

/// A bounded queue from many threads to one.
#[derive(Debug)]
pub struct Mailbox<T> {
    sender: mpsc::Sender<T>,
    /// Only the control thread takes.
    receiver: Mutex<mpsc::Receiver<T>>,
}

impl<T> Mailbox<T> {
    /// Has room for so many.
    pub fn new(room: usize) -> Self {
        let (sender, receiver) = mpsc::channel(room);
        Self {
            sender,
            receiver: Mutex::new(receiver),
        }
    }

    /// Leaves `letter`; false: there is no room.
    pub fn leave(&self, letter: T) -> bool {
        self.sender.try_send(letter).is_ok()
    }

    /// The next one.
    pub async fn next(&self) -> T {
        match self.receiver.lock().await.recv().await {
            Some(letter) => letter,
            // Never: the sender is a part of this.
            None => std::future::pending().await,
        }
    }
}
