//! Handlers that only call the driver, one for each number of parameters.

macro_rules! pass {
    ($($name:ident($($arg:ident: $ty:ident),+);)*) => {$(
        /// # Safety
        /// As `real`.
        pub(crate) unsafe fn $name<R, $($ty),+>(real: unsafe extern "C" fn($($ty),+) -> R, $($arg: $ty),+) -> R {
            // SAFETY: as the caller promises.
            unsafe { real($($arg),+) }
        }
    )*};
}

pass! {
    one(a: A);
    two(a: A, b: B);
    three(a: A, b: B, c: C);
    four(a: A, b: B, c: C, d: D);
    five(a: A, b: B, c: C, d: D, e: E);
}
