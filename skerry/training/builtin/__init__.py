"""The built-in tasks as their author wrote them: models in torch, from which `skerry-task build` makes bundles."""
