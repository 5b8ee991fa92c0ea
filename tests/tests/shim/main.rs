//! `libcuota.so` as it is shipped: what it is made of, how calls reach it, and the hosts it has to survive.

mod cudart;
mod golden;
mod hostile;
mod hosts;
mod lookup;
mod others;
mod quota;
