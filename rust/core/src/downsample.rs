//! Fewer points that look the same: largest triangle three buckets (Steinarsson, "Downsampling time
//! series for visual representation", 2013).

/// Indices of at most `points` of the points, ascending: the first, the last, and of each of equally
/// large groups between them the one that spans the largest triangle with the point chosen before
/// and the average of the group that follows.
///
/// `times` ascend and are as many as `values`. Values that are no finite number stand for no value:
/// they are never chosen, and take no part.
pub fn lttb(times: &[f64], values: &[f64], points: usize) -> Vec<usize> {
    let there: Vec<usize> = (0..times.len().min(values.len()))
        .filter(|&i| times[i].is_finite() && values[i].is_finite())
        .collect();
    if there.len() <= points {
        return there;
    }
    if points < 3 {
        // Nothing is between: the first, and the last.
        return [there[0], there[there.len() - 1]].into_iter().take(points).collect();
    }
    let groups = points - 2;
    let inner = there.len() - 2;
    // Group `g` is there[bound(g)..bound(g + 1)]; every one has a point, as inner >= groups.
    let bound = |g: usize| 1 + g * inner / groups;
    let mut chosen = Vec::with_capacity(points);
    chosen.push(there[0]);
    for g in 0..groups {
        let last = chosen[chosen.len() - 1];
        let next =
            if g + 1 < groups { &there[bound(g + 1)..bound(g + 2)] } else { &there[inner + 1..] };
        let (time, value) = (mean(times, next), mean(values, next));
        let area = |i: usize| {
            // Twice the area; whichever is the largest of all is the same.
            ((times[last] - time) * (values[i] - values[last])
                - (times[last] - times[i]) * (value - values[last]))
                .abs()
        };
        let group = &there[bound(g)..bound(g + 1)];
        let (mut best, mut largest) = (group[0], area(group[0]));
        for &i in &group[1..] {
            let found = area(i);
            if found > largest {
                (best, largest) = (i, found);
            }
        }
        chosen.push(best);
    }
    chosen.push(there[there.len() - 1]);
    chosen
}

fn mean(numbers: &[f64], of: &[usize]) -> f64 {
    // Divided first, so that the sum of large numbers is none that is too large.
    let count = of.len() as f64;
    of.iter().map(|&i| numbers[i] / count).sum()
}
