"""Jobs without servers: what an update of an agent does, how a rollout goes on."""
