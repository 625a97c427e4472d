"""Every reader of a user's files, fed with damaged ones."""
