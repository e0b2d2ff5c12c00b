module lapis

go 1.26
