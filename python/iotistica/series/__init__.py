"""Series of readings over any range: which level answers, in what steps, with which gaps. Pure."""
