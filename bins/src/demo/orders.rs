//! Every order of a few things.

/// All orders of the numbers from 1 to `n`, ascending.
pub(crate) fn orders(n: u32) -> Vec<Vec<u32>> {
    let mut orders = vec![Vec::new()];
    for _ in 0..n {
        let longer = |order: &Vec<u32>| {
            let next = (1..=n).filter(|id| !order.contains(id));
            next.map(|id| [order.as_slice(), &[id]].concat()).collect::<Vec<_>>()
        };
        orders = orders.iter().flat_map(longer).collect();
    }
    orders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_once() {
        assert_eq!(orders(1), [[1]]);
        assert_eq!(orders(2), [[1, 2], [2, 1]]);
        assert_eq!(orders(3), [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]]);
    }
}
