//! A value that cannot be printed.

use zeroize::Zeroize;

/// Holds a secret: no `Debug`, no `Display`, no serialization; wiped when dropped.
///
/// ```
/// let secret = mesh_auth::Secret::new(String::from("token"));
/// assert_eq!(secret.expose(), "token");
/// ```
/// Printing it does not compile:
/// ```compile_fail,E0277
/// let secret = mesh_auth::Secret::new(String::from("token"));
/// let text = format!("{secret:?}");
/// ```
#[derive(Clone)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Wraps a secret.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The secret itself. Every call is a place to review.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
